// Whether a history is linearizable: porcupine FILE
//
// Every line is an operation on a key: KEY CLIENT CALL RETURN OPERATION ARGUMENT RESULT, separated by tabs. Times are nanoseconds. An
// operation whose outcome nobody knows has the result "?", and may have happened at any time after its call, or never.
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const unknown = "?"

// A search that takes longer has not shown anything.
const patience = time.Minute

type input struct {
	operation, argument string
}

// The state of a key is its value; an empty one is none.
func step(state, in, out any) (bool, any) {
	value, asked, answer := state.(string), in.(input), out.(string)
	switch asked.operation {
	case "get":
		return answer == value, state
	case "set":
		return answer == unknown || answer == "OK", asked.argument
	case "incr":
		number, err := strconv.ParseInt("0"+value, 10, 64)
		if err != nil {
			return false, state
		}
		next := strconv.FormatInt(number+1, 10)
		return answer == unknown || answer == next, next
	}
	panic("no operation " + asked.operation)
}

var model = porcupine.Model{
	Init:  func() any { return "" },
	Step:  step,
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(in, out any) string {
		asked := in.(input)
		return strings.TrimSpace(asked.operation+" "+asked.argument) + " -> " + out.(string)
	},
}

func number(text string) int64 {
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	defer file.Close()
	histories := map[string][]porcupine.Operation{}
	count := 0
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) != 7 {
			panic("no operation: " + lines.Text())
		}
		end := number(fields[3])
		if fields[6] == unknown {
			end = math.MaxInt64
		}
		histories[fields[0]] = append(histories[fields[0]], porcupine.Operation{
			ClientId: int(number(fields[1])),
			Call:     number(fields[2]),
			Return:   end,
			Input:    input{fields[4], fields[5]},
			Output:   fields[6],
		})
		count++
	}
	if err := lines.Err(); err != nil {
		panic(err)
	}
	failed := 0
	for key, history := range histories {
		switch result := porcupine.CheckOperationsTimeout(model, history, patience); result {
		case porcupine.Ok:
		default:
			failed++
			fmt.Printf("%s: %s, %d operations\n", key, result, len(history))
			if failed == 1 {
				for _, one := range history {
					fmt.Printf("  %d %d..%d %s\n", one.ClientId, one.Call, one.Return, model.DescribeOperation(one.Input, one.Output))
				}
			}
		}
	}
	if failed > 0 {
		fmt.Printf("%d of %d keys aren't linearizable\n", failed, len(histories))
		os.Exit(1)
	}
	fmt.Printf("linearizable: %d keys, %d operations\n", len(histories), count)
}
