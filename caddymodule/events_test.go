package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	logs "go.uber.org/zap/zaptest/observer"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// TestEventsDoNotBlock: a handler that hangs holds nobody up, and what does not
// fit is dropped and told, once.
func TestEventsDoNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		core, logged := logs.New(zap.DebugLevel)
		release := make(chan struct{})
		var got []string
		q := newEventQueue(ctx, zap.New(core), func(name string, _ map[string]any) {
			<-release
			got = append(got, name)
		})
		q.open()
		start := time.Now()
		for i := range maxEvents + 10 {
			q.put(fmt.Sprint(i), nil)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("putting events took %v", took)
		}
		synctest.Wait()
		if n := logged.FilterMessageSnippet("dropped").Len(); n != 1 {
			t.Errorf("%d log lines about dropped events, want 1", n)
		}
		close(release)
		synctest.Wait()
		if len(got) < maxEvents || got[0] != "0" || got[1] != "1" {
			t.Errorf("%d events came, in the order %.5v...", len(got), got)
		}
	})
}

// TestEventsWaitForTheStart: handlers are bound while apps start, in any order.
func TestEventsWaitForTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		q := newEventQueue(t.Context(), zap.NewNop(), func(string, map[string]any) { n++ })
		q.put("a", nil)
		synctest.Wait()
		if n != 0 {
			t.Error("an event came before the config had started")
		}
		q.open()
		synctest.Wait()
		if n != 1 {
			t.Errorf("%d events", n)
		}
	})
}

// TestEventsEndWithTheConfig, and a handler that panics ends nothing.
func TestEventsEndWithTheConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		core, logged := logs.New(zap.DebugLevel)
		n := 0
		q := newEventQueue(ctx, zap.New(core), func(string, map[string]any) {
			if n++; n == 2 {
				cancel()
			}
			panic("canary")
		})
		q.open()
		for range 4 {
			q.put("a", nil)
		}
		synctest.Wait() // also: the goroutine has ended, or synctest would tell
		if n != 2 {
			t.Errorf("%d events, want the 2 before the config's end", n)
		}
		if logged.FilterMessageSnippet("panicked").Len() != 2 || logged.FilterMessageSnippet("the config has ended").Len() != 1 {
			t.Errorf("logged %v", logged.All())
		}
		for _, line := range logged.All() {
			if line.ContextMap()["panic"] == "canary" {
				t.Error("the panic's own words are in the log")
			}
		}
	})
}

// TestStoreFailure: of a store's errors only such words go out as cannot hold a
// password.
func TestStoreFailure(t *testing.T) {
	secret := &url.Error{Op: "Get", URL: "redis://user:canary@host", Err: errors.New("canary")}
	for want, errs := range map[string][]error{
		"failed":                     {secret, errors.New("canary")},
		syscall.ENOSPC.Error():       {fmt.Errorf("canary: %w", &os.PathError{Op: "open", Path: "canary", Err: syscall.ENOSPC})},
		syscall.ECONNREFUSED.Error(): {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}},
		"timeout":                    {fmt.Errorf("canary: %w", context.DeadlineExceeded), os.ErrDeadlineExceeded},
	} {
		for _, err := range errs {
			if got := storeFailure(err); got != want {
				t.Errorf("%v: %q, want %q", err, got, want)
			}
		}
	}
}

// TestEventData holds the names and the data.
func TestEventData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		q := newEventQueue(t.Context(), zap.NewNop(), func(name string, data map[string]any) { got = append(got, name+" "+fmt.Sprint(data)) })
		q.open()
		o := eventObserver{newObserver(&tracing{}), q}
		o.Lost("api", "0a1b", fmt.Errorf("it: %w", &tokenendpoint.Error{Code: "invalid_grant", Err: errors.New("canary")}))
		o.Store("api", errors.New("canary"))
		o.Store("api", nil)
		synctest.Wait()
		want := []string{
			"token_source.lost map[error_code:invalid_grant key:0a1b source:api]",
			"token_source.store_down map[error:failed source:api]",
			"token_source.store_up map[source:api]",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}
