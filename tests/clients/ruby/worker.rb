# A Sidekiq worker and what gives it jobs: worker.rb WHAT HOST PORT [TEXT [COUNT]]. What a job says is written to
# the standard output.
require "sidekiq"

what, host, port, text, count = ARGV
$stdout.sync = true
server = { url: "redis://#{host}:#{port}/0" }

class Say
  include Sidekiq::Worker

  def perform(text)
    sleep 0.05
    puts "said #{text}"
  end
end

case what
when "sidekiq-work"
  require "sidekiq/cli"
  Sidekiq.configure_server { |config| config.redis = server }
  cli = Sidekiq::CLI.instance
  cli.parse(["-r", __FILE__, "-c", "1", "-e", "production"])
  # The job is known already.
  cli.run(boot_app: false)
when "sidekiq-give"
  Sidekiq.configure_client { |config| config.redis = server }
  count.to_i.times { |number| Say.perform_async("#{text}-#{number}") }
when "redis-rb-greet"
  client = Redis.new(host: host, port: port.to_i)
  client.set("greeting", text)
  raise "GET" unless client.get("greeting") == text
  found = client.pipelined { |pipeline| 2.times { pipeline.get("greeting") } }
  raise "pipeline" unless found == [text, text]
  puts "said #{text}"
else
  abort "#{what} is none of them"
end
