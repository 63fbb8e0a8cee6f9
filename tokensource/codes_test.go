package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// TestAttack19CodeForTwoKeys: a code is sent for the key that is the first to bring it. Sent again, for whatever key, it
// would make a provider revoke what it brought.
func TestAttack19CodeForTwoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGrant{person: true}
		s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}})
		for range 2 {
			if tok, err := s.Exchange(t.Context(), tokensource.NewKey("alice"), code("c")); err != nil || tok.AccessToken() != "exchanged-c" {
				t.Errorf("%v, %v", tok, err)
			}
			if _, err := s.Exchange(t.Context(), tokensource.NewKey("mallory"), code("c")); !errors.Is(err, tokensource.ErrCodeRefused) {
				t.Errorf("for another key: %v", err)
			}
		}
		if n := g.calls(); n != 1 {
			t.Errorf("the code was sent %d times", n)
		}
		// a code that met an endpoint out of order is still the first key's
		g.onExchange = func(context.Context, int, string) (*tokenendpoint.Response, error) { return nil, status(500) }
		_, _ = s.Exchange(t.Context(), tokensource.NewKey("alice"), code("d"))
		if _, err := s.Exchange(t.Context(), tokensource.NewKey("mallory"), code("d")); !errors.Is(err, tokensource.ErrCodeRefused) {
			t.Errorf("for another key: %v", err)
		}
		g.onExchange = nil
		if _, err := s.Exchange(t.Context(), tokensource.NewKey("alice"), code("d")); err != nil {
			t.Errorf("the second attempt: %v", err)
		}
	})
}

// most is the largest number of calls that were under way at once.
type most struct{ now, most atomic.Int32 }

func (m *most) hang(ctx context.Context) (*tokenendpoint.Response, error) {
	n := m.now.Add(1)
	defer m.now.Add(-1)
	for old := m.most.Load(); n > old && !m.most.CompareAndSwap(old, n); old = m.most.Load() {
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // as an endpoint's timeout does
	defer cancel()
	<-ctx.Done()
	return nil, &tokenendpoint.Error{Call: "fake", Host: "idp", Sent: true, Err: ctx.Err()}
}

// TestAttack19HangingEndpoint: an endpoint that hangs gets few calls at once, of however many callers.
func TestAttack19HangingEndpoint(t *testing.T) {
	const callers = 6000
	for name, bring := range map[string]func(ctx context.Context, s *tokensource.Source, i int) error{
		"requests": func(ctx context.Context, s *tokensource.Source, i int) error {
			_, err := s.Token(ctx, tokensource.NewKey(fmt.Sprint(i)))
			return err
		},
		"codes": func(ctx context.Context, s *tokensource.Source, i int) error {
			_, err := s.Exchange(ctx, tokensource.NewKey(fmt.Sprint(i)), code(fmt.Sprint(i)))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var m most
				g := &fakeGrant{
					perKey: true, person: name == "codes",
					onToken: func(ctx context.Context, _ int, _ tokensource.Vars) (*tokenendpoint.Response, error) {
						return m.hang(ctx)
					},
					onExchange: func(ctx context.Context, _ int, _ string) (*tokenendpoint.Response, error) { return m.hang(ctx) },
				}
				s := newSource(t, tokensource.Config{Grant: g, KeyNames: []string{"user"}, MaxKeys: 2 * callers})
				var all sync.WaitGroup
				var failed atomic.Int32
				for i := range callers {
					all.Go(func() {
						if err := bring(t.Context(), s, i); err != nil {
							failed.Add(1)
						}
					})
				}
				all.Wait()
				if n := m.most.Load(); n > 64 || n == 0 {
					t.Errorf("%d calls at once", n)
				}
				if n := failed.Load(); n != callers {
					t.Errorf("%d of %d callers were told", n, callers)
				}
			})
		})
	}
}
