// A worker and a subscriber that run until they are ended, and what gives the worker its jobs:
// worker WHAT HOST PORT [TEXT]. What a job or a message says is written to the standard output.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

func main() {
	what, address := os.Args[1], net.JoinHostPort(os.Args[2], os.Args[3])
	server := asynq.RedisClientOpt{Addr: address}
	switch what {
	case "asynq-work":
		jobs := asynq.NewServeMux()
		jobs.HandleFunc("say", func(_ context.Context, job *asynq.Task) error {
			fmt.Printf("said %s\n", job.Payload())
			return nil
		})
		check(asynq.NewServer(server, asynq.Config{Concurrency: 2}).Run(jobs))
	case "asynq-give":
		_, err := asynq.NewClient(server).Enqueue(asynq.NewTask("say", []byte(os.Args[4])))
		check(err)
	case "go-redis-hear":
		subscriber := redis.NewClient(&redis.Options{Addr: address}).Subscribe(context.Background(), "news")
		for message := range subscriber.Channel() {
			fmt.Printf("said %s\n", message.Payload)
		}
	default:
		log.Fatalf("%q is none of them", what)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
