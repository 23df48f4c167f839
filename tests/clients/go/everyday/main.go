// What people do with go-redis, on a host that is managed: everyday HOST PORT PATH [USER] [PASSWORD]
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const needsDirect = "needs the direct or native data path"

var ctx context.Context

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// equal checks a result against what it is to be.
func equal[T any](expected T) func(T, error) {
	return func(found T, err error) {
		must(err)
		if !reflect.DeepEqual(found, expected) {
			panic(fmt.Sprintf("%#v instead of %#v", found, expected))
		}
	}
}

func fails(text string, err error) {
	if err == nil || !strings.Contains(err.Error(), text) {
		panic(fmt.Sprintf("%v doesn't say %q", err, text))
	}
}

func everyday(r *redis.Client) {
	equal("PONG")(r.Ping(ctx).Result())
	equal("OK")(r.Set(ctx, "name", "väl ue", time.Hour).Result())
	equal("väl ue")(r.Get(ctx, "name").Result())
	if err := r.Get(ctx, "missing").Err(); !errors.Is(err, redis.Nil) {
		panic(err)
	}
	equal(int64(5))(r.IncrBy(ctx, "count", 5).Result())
	equal("OK")(r.MSet(ctx, "a", 1, "b", 2).Result())
	equal([]any{"1", nil, "2"})(r.MGet(ctx, "a", "missing", "b").Result())
	equal(int64(2))(r.Del(ctx, "a", "b", "missing").Result())
	equal(int64(2))(r.HSet(ctx, "hash", "f", 1, "g", "two").Result())
	equal(map[string]string{"f": "1", "g": "two"})(r.HGetAll(ctx, "hash").Result())
	equal([]any{"1", nil})(r.HMGet(ctx, "hash", "f", "none").Result())
	equal(int64(3))(r.RPush(ctx, "list", 1, 2, 3).Result())
	equal([]string{"1", "2", "3"})(r.LRange(ctx, "list", 0, -1).Result())
	equal(int64(1))(r.SAdd(ctx, "set", "a").Result())
	equal([]string{"a"})(r.SMembers(ctx, "set").Result())
	equal(map[string]struct{}{"a": {}})(r.SMembersMap(ctx, "set").Result())
	equal(int64(2))(r.ZAdd(ctx, "zset", redis.Z{Score: 1.5, Member: "a"}, redis.Z{Score: 2, Member: "b"}).Result())
	equal(1.5)(r.ZScore(ctx, "zset", "a").Result())
	equal([]redis.Z{{Score: 1.5, Member: "a"}, {Score: 2, Member: "b"}})(r.ZRangeWithScores(ctx, "zset", 0, -1).Result())
	equal([]redis.Z{{Score: 2, Member: "b"}})(r.ZPopMax(ctx, "zset").Result())
	equal("1-1")(r.XAdd(ctx, &redis.XAddArgs{Stream: "stream", ID: "1-1", Values: []string{"k", "v"}}).Result())
	entries, err := r.XRange(ctx, "stream", "-", "+").Result()
	must(err)
	if len(entries) != 1 || entries[0].Values["k"] != "v" {
		panic(entries)
	}
	seen := 0
	for keys := r.Scan(ctx, 0, "*s*", 100).Iterator(); keys.Next(ctx); seen++ {
	}
	equal(5)(seen, nil)

	fails("WRONGTYPE", r.LPush(ctx, "name", 1).Err())
	fails("NOSUCHCOMMAND", r.Do(ctx, "NOSUCHCOMMAND", "x").Err())
	double := redis.NewScript("return redis.call('incrby', KEYS[1], ARGV[1]) * 2")
	equal(8)(double.Run(ctx, r, []string{"script"}, 4).Int())
	equal(10)(double.Run(ctx, r, []string{"script"}, 1).Int())
	bytes := strings.Repeat("\x00\r\n\xff", 1<<18)
	must(r.Set(ctx, "bytes", bytes, 0).Err())
	equal(bytes)(r.Get(ctx, "bytes").Result())

	commands, err := r.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range 500 {
			pipe.Set(ctx, fmt.Sprint("p", i), i, 0)
			pipe.Get(ctx, fmt.Sprint("p", i))
		}
		return nil
	})
	must(err)
	for i := range 500 {
		equal(fmt.Sprint(i))(commands[2*i+1].(*redis.StringCmd).Result())
	}
	commands, err = r.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, "t", 1, 0)
		pipe.Incr(ctx, "t")
		pipe.HGetAll(ctx, "hash")
		pipe.ZScore(ctx, "zset", "a")
		return nil
	})
	must(err)
	equal(int64(2))(commands[1].(*redis.IntCmd).Result())
	equal(map[string]string{"f": "1", "g": "two"})(commands[2].(*redis.MapStringStringCmd).Result())
	equal(1.5)(commands[3].(*redis.FloatCmd).Result())

	var everybody sync.WaitGroup
	for worker := range 20 {
		everybody.Go(func() {
			for i := range 50 {
				key := fmt.Sprint("worker", worker)
				must(r.Set(ctx, key, i, 0).Err())
				equal(fmt.Sprint(i))(r.Get(ctx, key).Result())
			}
		})
	}
	everybody.Wait()
}

func everything(r *redis.Client) {
	for _, conflict := range []bool{false, true} {
		err := r.Watch(ctx, func(tx *redis.Tx) error {
			if conflict {
				must(r.Set(ctx, "watched", "changed", 0).Err())
			}
			_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				return pipe.Set(ctx, "watched", "mine", 0).Err()
			})
			return err
		}, "watched")
		if conflict != errors.Is(err, redis.TxFailedErr) {
			panic(err)
		}
	}
	subscriber := r.Subscribe(ctx, "news")
	_, err := subscriber.Receive(ctx)
	must(err)
	equal(int64(1))(r.Publish(ctx, "news", "hello").Result())
	message, err := subscriber.ReceiveMessage(ctx)
	must(err)
	equal("hello")(message.Payload, nil)
	must(subscriber.Close())
	go func() {
		time.Sleep(20 * time.Millisecond)
		r.RPush(ctx, "queue", "job")
	}()
	equal([]string{"queue", "job"})(r.BLPop(ctx, 5*time.Second, "queue").Result())
}

func refusals(r *redis.Client) {
	fails(needsDirect, r.BLPop(ctx, time.Second, "queue").Err())
	fails(needsDirect, r.Watch(ctx, func(*redis.Tx) error { return nil }, "watched"))
	equal(int64(0))(r.Publish(ctx, "news", "hello").Result())
}

func main() {
	var cancel context.CancelFunc
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	arguments := append(os.Args[1:], "", "")
	address, path := net.JoinHostPort(arguments[0], arguments[1]), arguments[2]
	login := redis.Options{Addr: address, Username: arguments[3], Password: arguments[4]}
	r := redis.NewClient(&login)
	everyday(r)
	for _, protocol := range []int{2, 3} {
		options := login
		options.Protocol = protocol
		options.ClientName = "everyday"
		other := redis.NewClient(&options)
		equal(map[string]string{"f": "1", "g": "two"})(other.HGetAll(ctx, "hash").Result())
		equal("everyday")(other.ClientGetName(ctx).Result())
		must(other.Close())
	}
	if login.Password != "" {
		for _, password := range []string{"wrong", ""} {
			stranger := redis.NewClient(&redis.Options{Addr: address, Password: password, MaxRetries: -1})
			if err := stranger.Get(ctx, "name").Err(); err == nil || errors.Is(err, redis.Nil) {
				panic("a stranger was let in")
			}
			must(stranger.Close())
		}
	}
	if path != "proxy" {
		everything(r)
	} else {
		refusals(r)
	}
	must(r.Close())
	fmt.Println("go-redis " + redis.Version() + ": all right")
}
