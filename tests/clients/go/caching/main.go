// rueidis keeps what it has read, as it does by default, and reads again what others have changed:
// caching HOST PORT
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/redis/rueidis"
)

var ctx = context.Background()

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func connect(option rueidis.ClientOption) rueidis.Client {
	option.InitAddress = []string{net.JoinHostPort(os.Args[1], os.Args[2])}
	// The sidecar is one Redis, whatever is behind it.
	option.ForceSingleClient = true
	client, err := rueidis.NewClient(option)
	check(err)
	return client
}

func keys() (keys []string) {
	for i := range 30 {
		keys = append(keys, fmt.Sprintf("k%d", i))
	}
	return keys
}

// read returns how many values came from the client's own memory.
func read(client rueidis.Client, expected string) (hits int, err error) {
	var commands []rueidis.CacheableTTL
	for _, key := range keys() {
		commands = append(commands, rueidis.CT(client.B().Get().Key(key).Cache(), time.Hour))
	}
	replies := client.DoMultiCache(ctx, commands...)
	for _, key := range keys() {
		replies = append(replies, client.DoCache(ctx, client.B().Get().Key(key).Cache(), time.Hour))
	}
	for _, reply := range replies {
		value, err := reply.ToString()
		check(err)
		if value != expected {
			return 0, fmt.Errorf("%q instead of %q", value, expected)
		}
		if reply.IsCacheHit() {
			hits++
		}
	}
	return hits, nil
}

func main() {
	modes := map[string]rueidis.ClientOption{
		"by default":    {},
		"OPTOUT":        {ClientTrackingOptions: []string{"OPTOUT"}},
		"with a prefix": {ClientTrackingOptions: []string{"PREFIX", "k", "BCAST"}},
	}
	for mode, option := range modes {
		client, other := connect(option), connect(rueidis.ClientOption{DisableCache: true})
		for round := range 5 {
			value := fmt.Sprint(mode, round)
			for _, key := range keys() {
				check(other.Do(ctx, other.B().Set().Key(key).Value(value).Build()).Error())
			}
			// It is told a little later.
			var hits int
			err := fmt.Errorf("not read")
			for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				hits, err = read(client, value)
			}
			check(err)
			hits, err = read(client, value)
			check(err)
			if all := 2 * len(keys()); hits != all {
				panic(fmt.Sprintf("%s: %d of %d values were kept", mode, hits, all))
			}
		}
		client.Close()
		other.Close()
	}
	fmt.Println("rueidis: all right")
}
