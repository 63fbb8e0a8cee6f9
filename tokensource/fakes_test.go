package tokensource_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// fakeGrant is a grant without sockets. Its functions get the number of the
// call, from 1; nil ones issue tokens.
type fakeGrant struct {
	onToken    func(ctx context.Context, n int, v tokensource.Vars) (*tokenendpoint.Response, error)
	onRefresh  func(ctx context.Context, n int, refresh string) (*tokenendpoint.Response, error)
	onExchange func(ctx context.Context, n int, code string) (*tokenendpoint.Response, error)

	identity  []string
	seed      string
	person    bool
	elsewhere bool // Refresh calls another place than Token
	noRefresh bool // there is no place to refresh at
	perKey    bool // Token's call depends on the key

	tokens, refreshes, exchanges atomic.Int32
}

func (g *fakeGrant) Info() tokensource.GrantInfo {
	return tokensource.GrantInfo{
		Type:                "fake",
		Identity:            append([]string{"fake"}, g.identity...),
		Interactive:         g.person,
		Refreshable:         !g.noRefresh,
		InitialRefreshToken: tokenendpoint.NewSecret(g.seed),
		SameEndpoint:        !g.elsewhere,
		PerKey:              g.perKey,
	}
}

func (g *fakeGrant) Token(ctx context.Context, v tokensource.Vars) (*tokenendpoint.Response, error) {
	n := int(g.tokens.Add(1))
	if g.onToken != nil {
		return g.onToken(ctx, n, v)
	}
	return answer(fmt.Sprintf("granted-%d", n), "", time.Hour), nil
}

func (g *fakeGrant) Refresh(ctx context.Context, _ tokensource.Vars, refresh tokenendpoint.Secret) (*tokenendpoint.Response, error) {
	n := int(g.refreshes.Add(1))
	if g.onRefresh != nil {
		return g.onRefresh(ctx, n, refresh.Reveal())
	}
	return answer(fmt.Sprintf("refreshed-%d", n), fmt.Sprintf("refresh-%d", n), time.Hour), nil
}

func (g *fakeGrant) Exchange(ctx context.Context, _ tokensource.Vars, c tokensource.Code) (*tokenendpoint.Response, error) {
	n := int(g.exchanges.Add(1))
	if g.onExchange != nil {
		return g.onExchange(ctx, n, c.Code.Reveal())
	}
	return answer("exchanged-"+c.Code.Reveal(), "refresh-of-"+c.Code.Reveal(), time.Hour), nil
}

// calls is the number of all token calls so far.
func (g *fakeGrant) calls() int {
	return int(g.tokens.Load() + g.refreshes.Load() + g.exchanges.Load())
}

// answer is a response; a lifetime of 0 is none that was said.
func answer(access, refresh string, lifetime time.Duration) *tokenendpoint.Response {
	res := &tokenendpoint.Response{
		AccessToken:  tokenendpoint.NewSecret(access),
		RefreshToken: tokenendpoint.NewSecret(refresh),
		TokenType:    "Bearer",
	}
	if lifetime != 0 {
		res.Expiry = tokenendpoint.ExpiresIn(lifetime)
	}
	return res
}

// dead is a response whose token has expired already.
func dead(access, refresh string) *tokenendpoint.Response { return answer(access, refresh, -1) }

func code(text string) tokensource.Code {
	return tokensource.Code{Code: tokenendpoint.NewSecret(text)}
}

// The failures of a token endpoint.
func status(n int) error {
	return &tokenendpoint.Error{Call: "fake", Host: "idp", Status: n, Sent: true}
}

func refusal(code string) error {
	return &tokenendpoint.Error{Call: "fake", Host: "idp", Status: 400, Code: tokenendpoint.Code(code), Class: tokenendpoint.Permanent, Sent: true}
}

func throttle(after time.Duration) error {
	return &tokenendpoint.Error{Call: "fake", Host: "idp", Status: 429, Class: tokenendpoint.Throttled, RetryAfter: after, Sent: true}
}

// memStore is a store in memory that can fail, hang and tell in what order it
// was used.
type memStore struct {
	mu      sync.Mutex
	records map[string][]byte
	loadErr error
	saveErr error
	// failFrom, if not 0, is the write that fails first, counted from now.
	failFrom int
	onSave   func(key string)
	saves    int
	loads    int
}

func newMemStore() *memStore { return &memStore{records: map[string][]byte{}} }

func (m *memStore) Load(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loads++
	if m.loadErr != nil {
		return nil, m.loadErr
	}
	b, ok := m.records[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (m *memStore) Swap(ctx context.Context, key string, old, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saves++
	if err := errors.Join(ctx.Err(), m.saveErr); err != nil {
		return err
	}
	if m.failFrom > 0 {
		if m.failFrom--; m.failFrom == 0 {
			m.saveErr = errDisk
			return errDisk
		}
	}
	if !bytes.Equal(m.records[key], old) {
		return tokenstore.ErrConflict
	}
	if m.onSave != nil {
		m.onSave(key)
	}
	m.records[key] = append([]byte(nil), value...)
	return nil
}

// fail makes the store fail from now on, with nil work again.
func (m *memStore) fail(load, save error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loadErr, m.saveErr = load, save
}

// failNth makes the n-th write from now fail, and those after it.
func (m *memStore) failNth(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failFrom = n
}

// only returns the one record of a token there is, and its key.
func (m *memStore) only(t *testing.T) (key string, value []byte) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for k, v := range m.records {
		if !bytes.Contains(v, []byte(`"pending"`)) {
			key, value, n = k, v, n+1
		}
	}
	if n != 1 {
		t.Fatalf("%d records, want 1", n)
	}
	return key, value
}

func (m *memStore) put(key string, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records[key] = value
}

func (m *memStore) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

func (m *memStore) all() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.records)
}

func (m *memStore) empty() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.records)
}

func (m *memStore) remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, key)
}

func (m *memStore) saved() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}

// newSource makes a source that is closed at the end of the test.
func newSource(t testing.TB, cfg tokensource.Config) *tokensource.Source {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	s, err := tokensource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// issue always issues the same token.
func issue(access string, lifetime time.Duration) func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
	return func(context.Context, int, tokensource.Vars) (*tokenendpoint.Response, error) {
		return answer(access, "", lifetime), nil
	}
}

var noKey tokensource.Key

// want takes a token and checks that it is the one expected.
func want(t testing.TB, s *tokensource.Source, k tokensource.Key, access string) *tokensource.Token {
	t.Helper()
	tok, err := s.Token(context.Background(), k)
	if err != nil {
		t.Fatalf("Token: %v, want %s", err, access)
	}
	if tok.AccessToken() != access {
		t.Fatalf("Token is %s, want %s", tok.AccessToken(), access)
	}
	return tok
}

// wantErr takes a token and checks that there is none, and that the error is
// one of those expected.
func wantErr(t testing.TB, s *tokensource.Source, k tokensource.Key, targets ...error) error {
	t.Helper()
	tok, err := s.Token(context.Background(), k)
	if err == nil {
		t.Fatalf("Token is %s, want the error %q", tok.AccessToken(), targets)
	}
	for _, target := range targets {
		if errors.Is(err, target) {
			return err
		}
	}
	t.Fatalf("Token: %v, want %q", err, targets)
	return nil
}

func wantCalls(t testing.TB, g *fakeGrant, tokens, refreshes int) {
	t.Helper()
	if a, b := int(g.tokens.Load()), int(g.refreshes.Load()); a != tokens || b != refreshes {
		t.Fatalf("%d grants and %d refreshes, want %d and %d", a, b, tokens, refreshes)
	}
}
