package tokensource_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// What goes wrong only when two things happen at once. Each of these once
// sent a refresh token twice, lost one, or held a good one for bad.

// openSource is a source whose end does not have to be clean.
func openSource(t *testing.T, cfg tokensource.Config) *tokensource.Source {
	t.Helper()
	cfg.Name = "test"
	s, err := tokensource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// A call waits for another source's token for so long that its lease is taken
// over: nothing is sent then.
func TestLeaseIsAskedJustBeforeSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newMemStore()
		cut := &cuttable{memStore: shared}
		sent := map[string]int{}
		var mu sync.Mutex
		tr := rt(func(r *http.Request) (*http.Response, error) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			sent["r0"]++
			_ = b
			n := sent["r0"]
			body := fmt.Sprintf(`{"access_token":"t%d","refresh_token":"r%d","expires_in":3600}`, n, n)
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		bearer := func(wait time.Duration) *tokensource.Source {
			return newSource(t, tokensource.Config{Name: "outer", Grant: &fakeGrant{onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
				time.Sleep(wait)
				return answer("outer", "", time.Hour), nil
			}}})
		}
		mk := func(store tokenstore.Store, wait time.Duration) *tokensource.Source {
			ep := &tokenendpoint.Endpoint{URL: tokenendpoint.Literal("https://idp/token"), Transport: tr, Bearer: bearer(wait).Authorizer()}
			g := &tokensource.EndpointGrant{Type: "refresh_token", Endpoint: ep, RefreshEndpoint: ep, Interactive: true, InitialRefreshToken: tokenendpoint.NewSecret("r0")}
			return newSource(t, tokensource.Config{Grant: g, Store: store, MaxWait: -1})
		}
		a, b := mk(cut, 20*time.Second), mk(shared, 0)
		done := make(chan struct{})
		go func() { _, err := a.Token(context.Background(), noKey); t.Log("a:", err); close(done) }()
		synctest.Wait()
		cut.set(true)
		tok, err := b.Token(context.Background(), noKey)
		t.Log("b:", tok.AccessToken(), err)
		cut.set(false) // the store is back, a's next beat tells it that the lease is lost
		<-done
		if sent["r0"] != 1 {
			t.Errorf("r0 sent %d times", sent["r0"])
		}
	})
}

// A store is slow, and a beat is under way as the refusal comes: it is stored
// for all, all the same.
func TestRefusalIsStoredAfterASlowBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newMemStore()
		n := 0
		g := &fakeGrant{person: true, seed: "r0", onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			n++
			time.Sleep(1500 * time.Millisecond)
			return nil, refusal("invalid_grant")
		}}
		a := newSource(t, tokensource.Config{Grant: g, Store: &ctxLate{shared, time.Second}, MaxWait: -1})
		b := newSource(t, tokensource.Config{Grant: g, Store: shared, MaxWait: -1})
		wantErr(t, a, noKey, tokensource.ErrAuthorizationRequired)
		time.Sleep(10 * time.Second)
		start := time.Now()
		wantErr(t, b, noKey, tokensource.ErrAuthorizationRequired)
		_, v := shared.only(t)
		if n != 1 {
			t.Errorf("refused refresh token sent %d times; b waited %v; %s", n, time.Since(start), v)
		}
	})
}

// So it is when a code was noted in the record meanwhile.
func TestRefusalIsStoredBesideACode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newMemStore()
		n := 0
		g := &fakeGrant{person: true, seed: "r0"}
		a := newSource(t, tokensource.Config{Grant: g, Store: shared, MaxWait: -1})
		b := newSource(t, tokensource.Config{Grant: g, Store: shared, MaxWait: -1})
		g.onExchange = func(context.Context, int, string) (*tokenendpoint.Response, error) {
			return nil, refusal("invalid_grant")
		}
		g.onRefresh = func(context.Context, int, string) (*tokenendpoint.Response, error) {
			n++
			if n == 1 {
				_, _ = b.Exchange(context.Background(), noKey, code("bad"))
			}
			return nil, refusal("invalid_grant")
		}
		wantErr(t, a, noKey, tokensource.ErrAuthorizationRequired)
		wantErr(t, b, noKey, tokensource.ErrAuthorizationRequired)
		if n != 1 {
			t.Errorf("refused refresh token sent %d times", n)
		}
	})
}

// A renewal that waited for another's has all its time for the call: an answer
// that is cut off may hold the only good refresh token.
func TestCallHasAllItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newMemStore()
		var used []string
		g := func(first time.Duration, fail bool) *fakeGrant {
			return &fakeGrant{person: true, seed: "r0", onRefresh: func(ctx context.Context, _ int, r string) (*tokenendpoint.Response, error) {
				if fail {
					time.Sleep(first)
					return nil, status(503)
				}
				used = append(used, r)
				select {
				case <-time.After(3 * time.Second):
					return answer("t", "r1", time.Hour), nil
				case <-ctx.Done():
					return nil, &tokenendpoint.Error{Host: "idp", Sent: true, Err: ctx.Err()}
				}
			}}
		}
		// a's call fails after 58 s, and it does not try again
		a := openSource(t, tokensource.Config{Grant: g(58*time.Second, true), Store: shared, MaxWait: -1})
		b := openSource(t, tokensource.Config{Grant: g(0, false), Store: shared, MaxWait: -1})
		go func() {
			_, _ = a.Token(context.Background(), noKey)
			_ = a.Close(context.Background())
		}()
		synctest.Wait()
		tok, err := b.Token(context.Background(), noKey)
		if err != nil {
			t.Errorf("token %v, err %v, sent %v: answer thrown away by our own deadline", tok, err, used)
		}
	})
}

// A renewal writes twice, the intent and the token, and looks once more.
func TestRenewalWritesTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		s := newSource(t, tokensource.Config{Grant: &fakeGrant{person: true, seed: "r0"}, Store: store})
		want(t, s, noKey, "refreshed-1")
		time.Sleep(time.Minute)
		if n := store.saved(); n != 2 {
			t.Errorf("%d writes, want 2", n)
		}
	})
}

// Whether the intent was written is not known, and nothing was sent: a wrong
// client says nothing of the refresh token.
func TestNoDoubtWithoutSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newMemStore()
		ok := &lostOnce{memStore: shared}
		bad := true
		g := &fakeGrant{person: true, seed: "r0", onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
			if bad {
				return nil, refusal("unauthorized_client")
			}
			return answer("t", "r1", time.Hour), nil
		}}
		a := newSource(t, tokensource.Config{Grant: g, Store: ok})
		_, err := a.Token(context.Background(), noKey)
		t.Log(err)
		if tokensource.FaultOf(err) != tokensource.FaultSuspected {
			_, v := shared.only(t)
			t.Errorf("lost: %s", v)
		}
	})
}

// Glewlwyd tells a used refresh token by a 400 and an empty body. After a cut
// that is enough.
func TestEmptyRefusalAfterACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, _, g := killed(t, 0)
		n := 0
		g.onRefresh = func(context.Context, int, string) (*tokenendpoint.Response, error) {
			n++
			return nil, status(400)
		}
		s := newSource(t, tokensource.Config{Grant: g, Store: store})
		s.Resume()
		time.Sleep(time.Hour)
		if st := s.Stats(); st.NeedPerson != 1 {
			t.Errorf("NeedPerson %d after an hour, the used refresh token was sent %d times", st.NeedPerson, n)
		}
	})
}

// docs/faults.md, fault 42: another replica's clock is ahead. Its token is not younger than
// new, and can be replaced.
func TestForcedRenewalWithClockSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newMemStore()
		g := &fakeGrant{person: true}
		cfg := tokensource.Config{Grant: g, Store: shared}
		a := newSource(t, cfg)
		if _, err := a.Exchange(context.Background(), noKey, code("x")); err != nil {
			t.Fatal(err)
		}
		k, v := shared.only(t)
		var env struct{ Record json.RawMessage }
		_ = json.Unmarshal(v, &env)
		var rec map[string]any
		_ = json.Unmarshal(env.Record, &rec)
		rec["version"] = 1
		ahead := 20 * time.Minute
		rec["issued"] = time.Now().Add(ahead).UTC()
		rec["expiry"] = time.Now().Add(ahead + time.Hour).UTC()
		b, _ := json.Marshal(rec)
		shared.put(k, b)
		s := newSource(t, cfg)
		tok := want(t, s, noKey, "exchanged-x")
		tok.Accepted()
		if lives := time.Until(tok.Expiry()); lives > time.Hour {
			t.Errorf("it is believed to live for %v, more than any token does", lives)
		}
		time.Sleep(time.Minute)
		start := time.Now()
		_, err := s.Renew(context.Background(), noKey, tok)
		if err != nil {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		time.Sleep(10 * time.Minute)
		if _, err := s.Renew(context.Background(), noKey, tok); err != nil {
			t.Errorf("ten minutes later: %v", err)
		}
	})
}

// The refresh endpoint is down for a while and the password is wrong: the
// refresh token is good when it is back.
func TestRefusedGrantSaysNothingOfTheRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		down, wrong := false, false
		g := &fakeGrant{
			elsewhere: true,
			onToken: func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
				if wrong {
					return nil, refusal("invalid_grant")
				}
				return answer("t1", "r1", time.Hour), nil
			},
			onRefresh: func(context.Context, int, string) (*tokenendpoint.Response, error) {
				if down {
					return nil, status(503)
				}
				return answer("t2", "r2", time.Hour), nil
			},
		}
		k := tokensource.NewKey("ann")
		cfg := tokensource.Config{Grant: g, Store: store, KeyNames: []string{"user"}}
		s := newSource(t, cfg)
		want(t, s, k, "t1")
		down, wrong = true, true // the password was changed; the refresh endpoint is down for a minute
		time.Sleep(2 * time.Hour)
		_, err := s.Token(context.Background(), k)
		t.Log(err)
		time.Sleep(time.Minute)
		down = false
		time.Sleep(time.Hour)
		_, v := store.only(t)
		_, err = s.Token(context.Background(), k)
		_, err2 := newSource(t, cfg).Token(context.Background(), k)
		if err != nil || err2 != nil {
			t.Errorf("an hour after the refresh endpoint is back: %v; after a restart: %v; %d refreshes; %s", err, err2, g.refreshes.Load(), v)
		}
	})
}

type rt func(*http.Request) (*http.Response, error)

func (f rt) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// ctxLate writes at once and says so later, and heeds the context.
type ctxLate struct {
	*memStore
	by time.Duration
}

func (l *ctxLate) Swap(ctx context.Context, key string, old, value []byte) error {
	if err := l.memStore.Swap(ctx, key, old, value); err != nil {
		return err
	}
	select {
	case <-time.After(l.by):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type lostOnce struct {
	*memStore
	done bool
}

func (l *lostOnce) Swap(ctx context.Context, key string, old, value []byte) error {
	err := l.memStore.Swap(ctx, key, old, value)
	if err == nil && !l.done {
		l.done = true
		return errDisk
	}
	return err
}
