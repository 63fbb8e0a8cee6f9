package tokensource_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/internal/wiretest"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

func BenchmarkTokenFresh(b *testing.B) {
	s := newSource(b, tokensource.Config{Grant: &fakeGrant{}})
	ctx := context.Background()
	want(b, s, noKey, "granted-1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Token(ctx, noKey); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkClock is what the time alone costs, of what the others report.
func BenchmarkClock(b *testing.B) {
	for b.Loop() {
		_ = time.Now()
	}
}

func BenchmarkTokenFreshParallel(b *testing.B) {
	s := newSource(b, tokensource.Config{Grant: &fakeGrant{}})
	want(b, s, noKey, "granted-1")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Token(context.Background(), noKey); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// keyed is a source with a token for each of n users.
func keyed(tb testing.TB, n int) (*tokensource.Source, []tokensource.Key) {
	tb.Helper()
	s := newSource(tb, tokensource.Config{Grant: &fakeGrant{}, KeyNames: []string{"user"}, MaxKeys: n})
	ks := make([]tokensource.Key, n)
	for i := range ks {
		ks[i] = tokensource.NewKey("user-" + strconv.Itoa(i))
		if _, err := s.Token(context.Background(), ks[i]); err != nil {
			tb.Fatal(err)
		}
	}
	return s, ks
}

func BenchmarkTokenFreshKeyed(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		s, ks := keyed(b, n)
		ctx := context.Background()
		b.Run(fmt.Sprintf("keys=%d/ready", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Token(ctx, ks[i*7919%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("keys=%d/made", n), func(b *testing.B) {
			users := make([]string, 1000)
			for i := range users {
				users[i] = "user-" + strconv.Itoa(i*7919%n)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Token(ctx, tokensource.NewKey(users[i%1000])); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The path that every request takes allocates nothing.
func TestFreshTokenAllocatesNothing(t *testing.T) {
	if raceDetector {
		return // it allocates on its own
	}
	ctx := context.Background()
	single := newSource(t, tokensource.Config{Grant: &fakeGrant{}})
	many, ks := keyed(t, 100)
	for name, c := range map[string]struct {
		most float64
		call func() (*tokensource.Token, error)
	}{
		"without keys": {0, func() (*tokensource.Token, error) { return single.Token(ctx, noKey) }},
		"a ready key":  {0, func() (*tokensource.Token, error) { return many.Token(ctx, ks[42]) }},
		"a key made":   {1, func() (*tokensource.Token, error) { return many.Token(ctx, tokensource.NewKey("user-42")) }},
	} {
		if _, err := c.call(); err != nil {
			t.Fatal(err)
		}
		allocs := testing.AllocsPerRun(1000, func() { _, _ = c.call() })
		if allocs > c.most {
			t.Errorf("%s: %v allocations, want %v", name, allocs, c.most)
		}
	}
}

// reply is a transport that keeps nothing: a bare response, or an error.
type reply struct{ body string }

func (r reply) RoundTrip(*http.Request) (*http.Response, error) {
	if r.body == "" {
		return nil, context.Canceled
	}
	return wiretest.Respond(200, "text/plain", r.body), nil
}

func BenchmarkEndpointEncode(b *testing.B) {
	for _, in := range []tokenendpoint.ParamsIn{tokenendpoint.ParamsForm, tokenendpoint.ParamsJSON, tokenendpoint.ParamsQuery} {
		b.Run(string(in), func(b *testing.B) {
			ep := wiretest.Endpoint(reply{})
			ep.ParamsIn, ep.Auth = in, tokenendpoint.ClientSecretPost
			ep.Client = tokenendpoint.Client{ID: wiretest.Literal("id"), Secret: wiretest.Literal("secret")}
			params := []tokenendpoint.Param{wiretest.Param("grant_type", "refresh_token"), wiretest.Param("refresh_token", "a-refresh-token-of-usual-size")}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = ep.Call(context.Background(), "refresh_token", params, nil)
			}
		})
	}
}

func BenchmarkAnswerDecode(b *testing.B) {
	for name, body := range map[string]string{
		"json": `{"access_token":"an-access-token-of-usual-size","token_type":"Bearer","expires_in":"3599","refresh_token":"r","scope":"a b","instance_url":"https://eu"}`,
		"form": "access_token=an-access-token-of-usual-size&token_type=bearer&expires_in=3599&scope=a",
	} {
		b.Run(name, func(b *testing.B) {
			ep := wiretest.Endpoint(reply{body})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ep.Call(context.Background(), "x", nil, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
