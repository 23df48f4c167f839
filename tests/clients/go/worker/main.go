// Workers, subscribers and what gives the workers their jobs: worker WHAT HOST PORT [TEXT [COUNT]]. What a
// job or a message says is written to the standard output.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

var ctx = context.Background()

func main() {
	what, address := os.Args[1], net.JoinHostPort(os.Args[2], os.Args[3])
	switch what {
	case "asynq-work":
		jobs := asynq.NewServeMux()
		jobs.HandleFunc("say", func(_ context.Context, job *asynq.Task) error {
			time.Sleep(50 * time.Millisecond)
			say(string(job.Payload()))
			return nil
		})
		check(asynq.NewServer(asynq.RedisClientOpt{Addr: address}, asynq.Config{Concurrency: 2}).Run(jobs))
	case "asynq-give":
		count, err := strconv.Atoi(os.Args[5])
		check(err)
		queue := asynq.NewClient(asynq.RedisClientOpt{Addr: address})
		for i := range count {
			_, err := queue.Enqueue(asynq.NewTask("say", []byte(fmt.Sprintf("%s-%d", os.Args[4], i))))
			check(err)
		}
	case "go-redis-hear":
		subscriber := redis.NewClient(&redis.Options{Addr: address}).Subscribe(ctx, "news")
		for message := range subscriber.Channel() {
			say(message.Payload)
		}
	case "rueidis-hear":
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true})
		check(err)
		// Receive returns when the connection is lost; it is the application that subscribes again.
		for {
			err := client.Receive(ctx, client.B().Subscribe().Channel("news").Build(), func(message rueidis.PubSubMessage) {
				say(message.Message)
			})
			fmt.Println(err)
			time.Sleep(200 * time.Millisecond)
		}
	case "go-redis-greet":
		client := redis.NewClient(&redis.Options{Addr: address})
		check(client.Set(ctx, "greeting", os.Args[4], 0).Err())
		same(client.Get(ctx, "greeting").Result())
		pipeline := client.Pipeline()
		first, second := pipeline.Get(ctx, "greeting"), pipeline.Get(ctx, "greeting")
		_, err := pipeline.Exec(ctx)
		check(err)
		same(first.Result())
		same(second.Result())
		say(os.Args[4])
	case "rueidis-greet":
		// Its own caching needs RESP3.
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true})
		check(err)
		check(client.Do(ctx, client.B().Set().Key("greeting").Value(os.Args[4]).Build()).Error())
		get := func() rueidis.Completed { return client.B().Get().Key("greeting").Build() }
		same(client.Do(ctx, get()).ToString())
		for _, reply := range client.DoMulti(ctx, get(), get()) {
			same(reply.ToString())
		}
		say(os.Args[4])
	default:
		log.Fatalf("%q is none of them", what)
	}
}

func say(text string) {
	fmt.Printf("said %s\n", text)
}

func same(found string, err error) {
	check(err)
	if found != os.Args[4] {
		log.Fatalf("%q instead of %q", found, os.Args[4])
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
