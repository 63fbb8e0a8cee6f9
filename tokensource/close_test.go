package tokensource_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// docs/faults.md, fault 38: what is in flight is finished and written, then it ends.
func TestCloseWaitsForTheFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, store := &fakeGrant{onToken: slowly(5 * time.Second)}, newMemStore()
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		got := make(chan error)
		go func() {
			_, err := s.Token(context.Background(), noKey)
			got <- err
		}()
		synctest.Wait()
		start := time.Now()
		closed := make(chan error)
		go func() { closed <- s.Close(context.Background()) }()
		if err := <-got; err != nil {
			t.Errorf("who waited got %v", err)
		}
		if err := <-closed; err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("Close: %v after %v, want none after 5s", err, time.Since(start))
		}
		store.only(t)
	})
}

// A flight that does not end is cut off, and Close says so.
func TestCloseWithADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{onToken: slowly(50 * time.Second)}, MaxWait: -1})
		got := make(chan error)
		go func() {
			_, err := s.Token(context.Background(), noKey)
			got <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v, want the deadline's error", err)
		}
		start := time.Now()
		if err := <-got; err == nil || time.Since(start) > 0 {
			t.Errorf("who waited got %v after %v, want an error at once", err, time.Since(start))
		}
	})
}

// The answer comes as the deadline cuts the flight off: the refresh token in
// it is written all the same.
func TestCloseWritesWhatHasArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		g := &fakeGrant{onToken: func(ctx context.Context, _ int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
			<-ctx.Done()
			return answer("tok", "rotated", time.Hour), nil
		}}
		s := newSource(t, tokensource.Config{Grant: g, Store: store, MaxWait: -1})
		go func() { _, _ = s.Token(context.Background(), noKey) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
		synctest.Wait()
		store.only(t)
	})
}

// A token that the store did not take gets a last chance.
func TestCloseWritesWhatIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		store.fail(nil, errors.New("disk full"))
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{}, Store: store})
		want(t, s, noKey, "granted-1")
		time.Sleep(30 * time.Minute)
		store.fail(nil, nil)
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		store.only(t)
	})
}

func TestClosedSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, seed: "seed"}
		s := newSource(t, tokensource.Config{Grant: g})
		tok := want(t, s, noKey, "refreshed-1")
		for range 2 {
			if err := s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		want(t, s, noKey, "refreshed-1") // what there is may be used
		time.Sleep(2 * time.Second)
		if _, err := s.Renew(context.Background(), noKey, tok); !errors.Is(err, tokensource.ErrClosed) {
			t.Errorf("Renew: %v, want ErrClosed", err)
		}
		if _, err := s.Exchange(context.Background(), noKey, code("c")); !errors.Is(err, tokensource.ErrClosed) {
			t.Errorf("Exchange: %v, want ErrClosed", err)
		}
		time.Sleep(24 * time.Hour)
		wantErr(t, s, noKey, tokensource.ErrClosed)
		wantCalls(t, g, 0, 1)
	})
}

// docs/faults.md, fault 38: Close lets nobody begin what it would cut off.
func TestNoCallBeginsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newMemStore()
		var sentAfter time.Duration
		var closedAt time.Time
		ga := &fakeGrant{person: true, seed: "r0", onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			time.Sleep(14 * time.Second)
			return nil, status(503)
		}}
		var cutOff bool
		gb := &fakeGrant{person: true, seed: "r0", onRefresh: func(ctx context.Context, _ int, r string) (*tokenendpoint.Response, error) {
			sentAfter = time.Since(closedAt)
			select {
			case <-time.After(3 * time.Second):
				return answer("t", "r1", time.Hour), nil
			case <-ctx.Done():
				cutOff = true
				return nil, &tokenendpoint.Error{Host: "idp", Sent: true, Err: ctx.Err()}
			}
		}}
		a := openSource(t, tokensource.Config{Grant: ga, Store: shared, MaxWait: -1})
		b := openSource(t, tokensource.Config{Grant: gb, Store: shared, MaxWait: -1})
		go func() { _, _ = a.Token(context.Background(), noKey) }()
		synctest.Wait()
		go func() { _, _ = b.Token(context.Background(), noKey) }()
		synctest.Wait()
		closedAt = time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		err := b.Close(ctx)
		synctest.Wait()
		if cutOff {
			t.Errorf("sent %v after Close began, and cut off: %v", sentAfter, err)
		}
	})
}

// Nor after a write that took until then.
func TestNoCallBeginsAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true, seed: "r0"}
		s := openSource(t, tokensource.Config{Grant: g, Store: newLateStore(newMemStore(), time.Second), MaxWait: -1})
		go func() { _, _ = s.Token(context.Background(), noKey) }()
		synctest.Wait()
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		wantCalls(t, g, 0, 0)
	})
}

// At the end of the process nobody is waited for who renews elsewhere.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &rotating{delay: 30 * time.Second}
		cfg := tokensource.Config{Grant: p.grant(), Store: newMemStore(), MaxWait: -1}
		a, b := openSource(t, cfg), openSource(t, cfg)
		go func() { _, _ = a.Token(context.Background(), noKey) }()
		synctest.Wait()
		go func() { _, _ = b.Token(context.Background(), noKey) }()
		synctest.Wait()
		b.Drain()
		start := time.Now()
		if err := b.Flush(context.Background()); err != nil || time.Since(start) > time.Second {
			t.Errorf("Flush: %v after %v", err, time.Since(start))
		}
	})
}
