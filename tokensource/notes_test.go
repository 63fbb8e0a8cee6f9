package tokensource

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"testing"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// emptyStore has nothing, and takes nothing.
type emptyStore struct{}

func (emptyStore) Load(context.Context, string) ([]byte, error) { return nil, fs.ErrNotExist }

func (emptyStore) Swap(context.Context, string, []byte, []byte) error { return tokenstore.ErrConflict }

// Keys that nobody authorized leave nothing behind: whoever may call could
// otherwise fill the memory with keys of their own making.
func TestUnknownKeysLeaveNothingBehind(t *testing.T) {
	const bound = 100
	s, err := New(Config{
		Name: "test", KeyNames: []string{"user"}, Store: emptyStore{}, MaxKeys: bound, MaxWait: -1,
		Grant: AuthorizationCode(tokenendpoint.New("https://idp.example/token", "id", "secret"), tokenendpoint.Template{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	for i := range 2000 {
		_, err := s.Token(context.Background(), NewKey("stranger "+strconv.Itoa(i)))
		if !errors.Is(err, ErrAuthorizationRequired) {
			t.Fatal(err)
		}
	}
	if n := len(s.finished.keys); n > 0 {
		t.Errorf("%d keys are remembered that were never noted", n)
	}
	entries := 0
	s.each(func(*entry) { entries++ })
	if entries > bound+maxUnevictable {
		t.Errorf("%d entries, want about %d", entries, bound)
	}
}
