package caddymodule

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("token_sources", parseTokenSources)
}

// parseTokenSources parses the global option token_sources, which is about all
// sources together. Syntax:
//
//	token_sources {
//	    storage_key <key> [<older keys...>] {
//	        migrate
//	    }
//	    store <type> {
//	        ...
//	    }
//	}
func parseTokenSources(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // token_sources
	if previous, ok := existing.(httpcaddyfile.App); ok {
		var first TokenStorage
		if err := json.Unmarshal(previous.Value, &first); err != nil {
			return nil, err
		}
		return nil, d.Errf("token_sources: given twice (first on line %d): expected it once", first.Origin.Lines[""])
	}
	s := &TokenStorage{Origin: originAt(d)}
	if d.NextArg() {
		return nil, d.Errf("token_sources: unexpected %q: expected its options in a block (one source is token_source <name> { ... })", d.Val())
	}
	if err := s.options().parse(d, "token_sources", s.Origin, nil); err != nil {
		return nil, err
	}
	value, err := json.Marshal(s)
	if err != nil {
		return nil, d.Errf("token_sources: %v", err)
	}
	return httpcaddyfile.App{Name: storageAppName, Value: value}, nil
}

func (s *TokenStorage) options() options {
	return options{
		"storage_key": {usage: "<key> [<older keys...>] [{ migrate }]", min: 1, max: -1, parse: s.parseStorageKey},
		"store":       {usage: "<type> { ... }", min: 1, max: 1, parse: s.parseStore},
	}
}

func (s *TokenStorage) parseStorageKey(d *caddyfile.Dispenser, args []string) error {
	for i, arg := range args {
		if !isSecretPlaceholder(arg) {
			return d.Errf("storage_key: key %d: %v", i+1, errKeyLiteral)
		}
	}
	s.StorageKeys = args
	return options{"migrate": flagOption(&s.Migrate)}.parse(d, "storage_key", s.Origin, nil)
}

func (s *TokenStorage) parseStore(d *caddyfile.Dispenser, args []string) error {
	const namespace = "token_sources.stores"
	name := args[0]
	var known []string
	for _, mod := range caddy.GetModules(namespace) {
		known = append(known, mod.ID.Name())
	}
	if !slices.Contains(known, name) {
		return d.Errf("store %q: expected one of %s", name, strings.Join(known, ", "))
	}
	unm, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		return err
	}
	s.StoreRaw = caddyconfig.JSONModuleObject(unm, "module", name, nil)
	return nil
}
