package caddymodule

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

func init() {
	caddy.RegisterModule(new(TokenStorage))
}

const storageAppName = "token_storage"

// TokenStorage says where the tokens of all sources are kept, and how they are
// sealed. The global option token_sources configures it.
//
// It is an app of its own, because in Caddy a global option cannot see what another
// one has made: token_source and token_sources cannot fill the same app.
type TokenStorage struct {
	// Keys that seal stored tokens, as {env.NAME} or {file.PATH}. The first key
	// seals, and every key opens. To replace a key, put the new one first, and remove
	// the old one when every token has been renewed. Each key is 32 bytes, in standard
	// base64 or as 64 hexadecimal digits. With keys, stored tokens that are not sealed
	// are not used: see migrate. Default: tokens are not sealed.
	StorageKeys []string `json:"storage_keys,omitempty"`

	// Use stored tokens that are not sealed, and seal each when it is read. Set it
	// when the first key is added to a store that is in use, and remove it when
	// everything is sealed: meanwhile whoever can write to the store can plant a
	// token. Without storage_keys it is an error. Default: false.
	Migrate bool `json:"migrate,omitempty"`

	// Where tokens are kept. Default: in Caddy's storage.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=token_sources.stores inline_key=module"`

	// Where the Caddyfile says it.
	Origin *Origin `json:"origin,omitempty"`

	keys []tokenendpoint.Secret
}

// Store is a module in the namespace token_sources.stores: a place for tokens,
// by its settings. Others may add more.
type Store interface {
	caddy.Module
	// TokenStore opens the store. It does no network I/O. If the store is an
	// [io.Closer], it is closed when nothing uses it any more. That may be after the
	// module's Cleanup, because sources and calls outlive a config.
	TokenStore(ctx caddy.Context) (tokenstore.Store, error)
}

// CaddyModule returns the Caddy module information.
func (*TokenStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  storageAppName,
		New: func() caddy.Module { return new(TokenStorage) },
	}
}

// Start implements caddy.App.
func (*TokenStorage) Start() error { return nil }

// Stop implements caddy.App.
func (*TokenStorage) Stop() error { return nil }

var errKeyLiteral = errors.New("a key does not belong in the config, which can be read through the admin API: expected {env.NAME} or {file.PATH}")

// isSecretPlaceholder reports whether text is a placeholder for a secret, and
// nothing else.
func isSecretPlaceholder(text string) bool {
	name, ok := strings.CutPrefix(text, "{")
	name, closed := strings.CutSuffix(name, "}")
	return ok && closed && !strings.ContainsAny(name, "{}") &&
		(strings.HasPrefix(name, "env.") || strings.HasPrefix(name, "file."))
}

// storageKey returns the bytes of a key. Its errors never quote the value.
func storageKey(r *resolver, text string) (string, error) {
	if !isSecretPlaceholder(text) {
		return "", errKeyLiteral
	}
	value, err := r.plain(text)
	if err != nil {
		return "", err
	}
	const size = 32
	if key, err := base64.StdEncoding.Strict().DecodeString(value); err == nil && len(key) == size {
		return string(key), nil
	}
	if key, err := hex.DecodeString(value); err == nil && len(key) == size {
		return string(key), nil
	}
	return "", fmt.Errorf("the value of %s is not a key: expected 32 bytes in base64 or 64 hexadecimal digits, as made by: openssl rand -base64 32", text)
}

// findStorage returns the config's settings, or the defaults.
func findStorage(ctx caddy.Context) (*TokenStorage, error) {
	app, err := ctx.AppIfConfigured(storageAppName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return new(TokenStorage), nil
	}
	if err != nil {
		return nil, err
	}
	return app.(*TokenStorage), nil
}

// open reads the keys and opens the store. It makes no network call. The sources' app
// calls it; this app's Provision does not, because Caddy provisions apps in random
// order, and a wrong config should give the same error each time.
func (s *TokenStorage) open(ctx caddy.Context) (tokenstore.Store, error) {
	if err := s.readKeys(); err != nil {
		return nil, err
	}
	if len(s.StoreRaw) > 0 {
		return s.openModule(ctx)
	}
	if files, ok := ctx.Storage().(*certmagic.FileStorage); ok {
		return newFileStore(files), nil
	}
	return newStorageStore(ctx.Storage()), nil
}

func (s *TokenStorage) readKeys() error {
	r := &resolver{repl: caddy.NewReplacer()}
	for i, text := range s.StorageKeys {
		key, err := storageKey(r, text)
		if err != nil {
			return s.Origin.errorf("storage_key", "key %d: %w", i+1, err)
		}
		if slices.ContainsFunc(s.keys, func(k tokenendpoint.Secret) bool { return k.Reveal() == key }) {
			return s.Origin.errorf("storage_key", "key %d: given twice: expected a key of its own", i+1)
		}
		s.keys = append(s.keys, tokenendpoint.NewSecret(key))
	}
	if s.Migrate && len(s.keys) == 0 {
		return s.Origin.errorf("migrate", "there is no key to seal with: expected storage_keys beside it")
	}
	return nil
}

func (s *TokenStorage) openModule(ctx caddy.Context) (tokenstore.Store, error) {
	mod, err := ctx.LoadModule(s, "StoreRaw")
	if err != nil {
		return nil, s.Origin.errorf("store", "%w", err)
	}
	store, ok := mod.(Store)
	if !ok {
		return nil, s.Origin.errorf("store", "module %T is no store", mod)
	}
	opened, err := store.TokenStore(ctx)
	if err != nil {
		return nil, s.Origin.errorf("store", "%w", err)
	}
	return opened, nil
}

// keysInto returns the keys and adds them, and migrate, to the sum that identifies a
// source. So with other keys, or when migrate ends, a source begins anew, from what is
// stored.
func (s *TokenStorage) keysInto(sum hash.Hash) [][]byte {
	if s.Migrate {
		fmt.Fprint(sum, "migrate")
	}
	var keys [][]byte
	for _, key := range s.keys {
		fmt.Fprintf(sum, "storage_key%d:%s", len(key.Reveal()), key.Reveal())
		keys = append(keys, []byte(key.Reveal()))
	}
	return keys
}

// Interface guard
var _ caddy.App = (*TokenStorage)(nil)
