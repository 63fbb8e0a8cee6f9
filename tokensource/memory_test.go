package tokensource_test

import (
	"context"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// takingStore takes what is written and has nothing of it in memory.
type takingStore struct{ *memStore }

func (takingStore) Swap(context.Context, string, []byte, []byte) error { return nil }

// memoryPerKey is how much heap a source takes for each of many keys, with access and
// refresh tokens of a size, once all is stored and was read back; and how much it
// believes it takes.
func memoryPerKey(t *testing.T, size int, person bool) (took, estimated int) {
	t.Helper()
	const keys = 20_000
	n := 0
	respond := func() *tokenendpoint.Response {
		n++
		number := strconv.Itoa(keys + n) // all are of one length
		pad := strings.Repeat("x", size-len(number)-1)
		res := answer("a"+number+pad, "r"+number+pad, 24*time.Hour)
		res.TokenType = strings.Clone("Bearer") // a decoded response has strings of its own
		res.Fields = []tokenendpoint.Field{{Name: strings.Clone("scope"), Value: strings.Clone("read write")}}
		return res
	}
	g := &fakeGrant{person: person}
	g.onToken = func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) { return respond(), nil }
	g.onExchange = func(context.Context, int, string) (*tokenendpoint.Response, error) { return respond(), nil }
	before := heapInUse()
	s := newSource(t, tokensource.Config{Grant: g, Store: takingStore{newMemStore()}, KeyNames: []string{"user"}})
	for i := range keys {
		user := strconv.Itoa(keys + i)
		var err error
		if k := tokensource.NewKey(user); person {
			_, err = s.Exchange(context.Background(), k, code(user))
		} else {
			_, err = s.Token(context.Background(), k)
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // thousands of goroutines at once would leave theirs behind
	}
	time.Sleep(time.Hour) // what was written is read back, codes are forgotten
	took, estimated = (heapInUse()-before)/keys, s.EstimatedMemory()/keys
	t.Logf("%d bytes a key, %d by the estimate", took, estimated)
	return took, estimated
}

func heapInUse() int {
	runtime.GC()
	runtime.GC() // what the first one has left to finalizers and pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc) //nolint:gosec // it fits
}

// An access token of 1 KB is in memory, and a refresh token of 1 KB is not if the
// store has it: a key took 3,120 bytes when it was, and still takes most of that where a
// person is needed.
func TestMemoryPerKey(t *testing.T) {
	if raceDetector {
		return // it has its own memory
	}
	for _, c := range []struct {
		name   string
		person bool
		most   int
	}{
		{"the store has the refresh token", false, 1550},
		{"a person's refresh token", true, 2700},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				took, estimated := memoryPerKey(t, 1000, c.person)
				if took > c.most {
					t.Errorf("%d bytes a key, want %d at most", took, c.most)
				}
				if off := took - estimated; max(off, -off) > took/10 {
					t.Errorf("the estimate is %d bytes a key, and the source takes %d", estimated, took)
				}
			})
		})
	}
}
