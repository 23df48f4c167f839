// A script that prints what go-redis returns: scenario HOST PORT PROTOCOL
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	ctx      context.Context
	prefixes = []string{"p:", "q:", "n:"}
)

func connect() *redis.Client {
	options := &redis.Options{Addr: net.JoinHostPort(os.Args[1], os.Args[2]), ClientName: "scenario", ReadTimeout: 20 * time.Second}
	if protocol, err := strconv.Atoi(os.Args[3]); err == nil {
		options.Protocol = protocol
	}
	return redis.NewClient(options)
}

func sorted(list []string) []string {
	sort.Strings(list)
	return list
}

// say prints what commands returned, in one line.
func say(what string, results ...any) {
	var texts []string
	for _, result := range results {
		texts = append(texts, text(result))
	}
	fmt.Printf("%s: %s\n", what, strings.Join(texts, ", "))
}

func text(result any) string {
	switch result := result.(type) {
	case redis.Cmder:
		if result.Err() != nil {
			return "error " + result.Err().Error()
		}
		value := reflect.ValueOf(result).MethodByName("Val").Call(nil)
		return text(value[0].Interface())
	case []redis.Cmder:
		var all []string
		for _, one := range result {
			all = append(all, text(one))
		}
		return "[" + strings.Join(all, ", ") + "]"
	case error:
		return "error " + result.Error()
	}
	bytes, err := json.Marshal(result)
	if err != nil {
		// JSON has no maps with keys of any type.
		return fmt.Sprint(result)
	}
	return string(bytes)
}

// keys gives names of one slot.
func keys(prefix string) func(string) string {
	return func(name string) string { return prefix + "{" + prefix + "}" + name }
}

func values(r *redis.Client, prefix string) {
	k := keys(prefix)
	say("set", r.Set(ctx, k("a"), "väl ue", 0), r.Get(ctx, k("a")), r.Get(ctx, k("missing")), r.SetNX(ctx, k("a"), "x", 0))
	say("incr", r.IncrBy(ctx, k("n"), 5), r.IncrByFloat(ctx, k("n"), 0.5))
	say("hash", r.HSet(ctx, k("h"), "f", 1, "g", "two"), r.HGetAll(ctx, k("h")), r.HGetAll(ctx, k("missing")), r.HMGet(ctx, k("h"), "f", "none"))
	say("list", r.RPush(ctx, k("l"), 1, 2, 3), r.LRange(ctx, k("l"), 0, -1), r.LMove(ctx, k("l"), k("l2"), "LEFT", "RIGHT"))
	say("set of", r.SAdd(ctx, k("s"), "a", "b"), sorted(r.SMembers(ctx, k("s")).Val()), r.SIsMember(ctx, k("s"), "a"))
	say("zset", r.ZAdd(ctx, k("z"), redis.Z{Score: 1.5, Member: "a"}, redis.Z{Score: 2, Member: "b"}), r.ZScore(ctx, k("z"), "a"), r.ZScore(ctx, k("z"), "none"))
	say("zrange", r.ZRangeWithScores(ctx, k("z"), 0, -1), r.ZPopMin(ctx, k("z")), r.ZPopMax(ctx, k("missing")))
	say("stream", r.XAdd(ctx, &redis.XAddArgs{Stream: k("x"), ID: "1-1", Values: []string{"k", "v"}}), r.XRange(ctx, k("x"), "-", "+"), r.XRead(ctx, &redis.XReadArgs{Streams: []string{k("x"), "0"}, Block: -1}))
	say("group", r.XGroupCreate(ctx, k("x"), "g", "0"), r.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "me", Streams: []string{k("x"), ">"}, Block: -1}), r.XAck(ctx, k("x"), "g", "1-1"))
	say("no group", r.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "none", Consumer: "me", Streams: []string{k("x"), ">"}, Block: -1}))
	say("geo", r.GeoAdd(ctx, k("geo"), &redis.GeoLocation{Longitude: 13.361389, Latitude: 38.115556, Name: "Palermo"}), r.GeoPos(ctx, k("geo"), "Palermo", "none"))
	say("rename", r.Rename(ctx, k("a"), k("b")), r.Exists(ctx, k("a"), k("b")), r.Type(ctx, k("b")), r.TTL(ctx, k("b")))
	list, elements, err := r.LMPop(ctx, "left", 1, k("none"), k("l")).Result()
	say("lmpop", list, elements, err == nil)
	say("errors", r.Incr(ctx, k("b")), r.LPush(ctx, k("b"), 1))
	big := strings.Repeat("0123456789abcdef", 65536)
	say("big", r.Set(ctx, k("big"), big, 0), r.Get(ctx, k("big")).Val() == big, r.StrLen(ctx, k("big")))
}

func pipelines(r *redis.Client) {
	pipe := r.Pipeline()
	for i := 0; i < 300; i++ {
		key := fmt.Sprintf("%sk%d", prefixes[i%3], i)
		pipe.Set(ctx, key, i, 0)
		pipe.Get(ctx, key)
	}
	pipe.LPush(ctx, "n:k5", "no list")
	pipe.Get(ctx, "p:k3")
	replies, err := pipe.Exec(ctx)
	say("pipeline", replies, err)
	var everywhere []string
	var pairs []string
	for i := 0; i < 30; i++ {
		everywhere = append(everywhere, fmt.Sprintf("%sk%d", prefixes[i%3], i))
		pairs = append(pairs, everywhere[i], "new")
	}
	say("mget", r.MGet(ctx, append([]string{"p:missing"}, everywhere...)...))
	say("mset", r.MSet(ctx, pairs), r.MGet(ctx, everywhere...))
	say("exists", r.Exists(ctx, everywhere...), r.Touch(ctx, everywhere...), r.Unlink(ctx, everywhere[10:]...), r.Del(ctx, everywhere...))
}

func transactions(r *redis.Client, prefix string) {
	k := keys(prefix)
	replies, err := r.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, k("t"), 1, 0)
		pipe.Incr(ctx, k("t"))
		pipe.HGetAll(ctx, k("h"))
		pipe.Get(ctx, k("missing"))
		return nil
	})
	say("transaction", replies, err)
	replies, err = r.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Incr(ctx, k("t"))
		pipe.Incr(ctx, k("h"))
		pipe.Get(ctx, k("t"))
		return nil
	})
	say("an error in it", replies, err)
	_, err = r.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Incr(ctx, k("t"))
		pipe.Do(ctx, "SET", k("t"))
		return nil
	})
	say("doomed", err, r.Get(ctx, k("t")))
	for _, conflict := range []bool{false, true} {
		err := r.Watch(ctx, func(tx *redis.Tx) error {
			say("watch", tx.Get(ctx, k("watched")))
			if conflict {
				say("set by another", r.Set(ctx, k("watched"), "changed", 0))
			}
			replies, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.Set(ctx, k("watched"), "mine", 0)
				return nil
			})
			if err == nil {
				say("executed", replies)
			}
			return err
		}, k("watched"))
		say("conflict", conflict, err, errors.Is(err, redis.TxFailedErr), r.Get(ctx, k("watched")))
	}
}

func waiting(r *redis.Client, prefix string) {
	k := keys(prefix)
	if prefix == "p:" {
		// It waits for a whole second at least.
		say("blpop in vain", r.BLPop(ctx, time.Second, k("queue")))
	}
	calls := []func() redis.Cmder{
		func() redis.Cmder { return r.BLPop(ctx, 10*time.Second, k("none"), k("queue")) },
		func() redis.Cmder { return r.BLMove(ctx, k("queue"), k("done"), "LEFT", "LEFT", 10*time.Second) },
		func() redis.Cmder { return r.BRPop(ctx, 10*time.Second, k("queue")) },
	}
	for _, call := range calls {
		got := make(chan redis.Cmder)
		go func() { got <- call() }()
		say("pushed", r.RPush(ctx, k("queue"), "job"))
		reply := <-got
		say("got", reply)
	}
}

func subscribers(r *redis.Client) {
	subscriber := r.Subscribe(ctx, "news", "p:news")
	defer subscriber.Close()
	next := func() string {
		message, err := subscriber.ReceiveTimeout(ctx, 20*time.Second)
		return fmt.Sprintf("%T %v %v", message, message, err)
	}
	say("subscribed", next(), next(), subscriber.PSubscribe(ctx, "ne*"), next())
	say("published", r.Publish(ctx, "news", "hello"), r.Publish(ctx, "p:news", "hi"), r.Publish(ctx, "nobody", "x"))
	say("heard", sorted([]string{next(), next(), next()}))
	say("ping", subscriber.Ping(ctx, "words"), next())
	say("unsubscribed", subscriber.Unsubscribe(ctx, "news", "p:news"), next(), next())
	say("sharded", subscriber.SSubscribe(ctx, "n:shard"), next(), r.SPublish(ctx, "n:shard", "hello"), next())
}

func scripts(r *redis.Client, prefix string) {
	k := keys(prefix)
	double := redis.NewScript("return {redis.call('incrby', KEYS[1], ARGV[1]) * 2, KEYS[1] == KEYS[2]}")
	say("evalsha", double.Run(ctx, r, []string{k("script"), k("x")}, 4), double.Run(ctx, r, []string{k("script"), k("script")}, 1))
	say("loaded", double.Load(ctx, r), double.Exists(ctx, r))
	replies, err := r.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		double.EvalSha(ctx, pipe, []string{k("script"), k("x")}, 1)
		return nil
	})
	say("in a transaction", replies, err)
	say("no script", r.EvalSha(ctx, strings.Repeat("0", 40), []string{k("a")}))
	say("my words", r.Eval(ctx, "return redis.error_reply('ERR my words')", []string{k("a")}))
	say("without keys", r.Eval(ctx, "return {ARGV[1], 7, false}", nil, "x"))
}

func scans(r *redis.Client) {
	say("flushall", r.FlushAll(ctx))
	for i := 0; i < 200; i++ {
		r.Set(ctx, fmt.Sprintf("%sscan%d", prefixes[i%3], i), i, 0)
	}
	for i := 0; i < 50; i++ {
		r.HSet(ctx, "p:hash", fmt.Sprintf("f%d", i), i)
	}
	all := func(scan *redis.ScanCmd) (found []string) {
		iterator := scan.Iterator()
		for iterator.Next(ctx) {
			found = append(found, iterator.Val())
		}
		return sorted(found)
	}
	say("scan", all(r.Scan(ctx, 0, "", 20)))
	say("scan match", all(r.Scan(ctx, 0, "q:*1*", 50)))
	say("scan type", all(r.ScanType(ctx, 0, "", 10, "hash")))
	say("hscan", all(r.HScan(ctx, "p:hash", 0, "", 10)))
	say("keys", len(r.Keys(ctx, "*").Val()), sorted(r.Keys(ctx, "n:scan1?").Val()), r.DBSize(ctx), r.RandomKey(ctx).Err() == nil)
}

func main() {
	var cancel context.CancelFunc
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	r := connect()
	say("ping", r.Ping(ctx), r.Echo(ctx, "words"), r.ClientGetName(ctx))
	say("unknown", r.Do(ctx, "NOSUCHCOMMAND", "x"))
	for _, prefix := range prefixes {
		values(r, prefix)
		transactions(r, prefix)
		waiting(r, prefix)
		scripts(r, prefix)
	}
	pipelines(r)
	subscribers(r)
	scans(r)
	fmt.Println("end")
}
