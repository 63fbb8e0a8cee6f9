package caddymodule

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// liveTLS holds what Caddy makes of TLS settings (a transport, a tls.Config), and
// has it made again when one of their files is replaced. crypto/tls could read a
// client certificate at each handshake, but not the certificates that it trusts.
type liveTLS[T any] struct {
	build func(caddy.Context) (T, error)
	ctx   caddy.Context
	files fileWatch
	now   atomic.Pointer[madeTLS[T]]
}

// madeTLS is one value of a liveTLS.
type madeTLS[T any] struct {
	value T
	// unload ends the modules that were loaded for it.
	unload context.CancelFunc
}

// newLiveTLS calls build for the first time. build must leave the settings as they
// are; see copyTransport.
func newLiveTLS[T any](ctx caddy.Context, settings *reverseproxy.TLSConfig, build func(caddy.Context) (T, error)) (*liveTLS[T], error) {
	l := &liveTLS[T]{build: build, ctx: ctx, files: newFileWatch(tlsFiles(settings))} // before build reads them, so that no change is missed
	first, err := build(ctx)
	if err != nil {
		return nil, err
	}
	l.now.Store(&madeTLS[T]{first, func() {}}) // Caddy ends these modules with the config
	return l, nil
}

// again makes a new value.
func (l *liveTLS[T]) again() (*madeTLS[T], error) {
	// A source outlives the config that was the first to load it.
	ctx := l.ctx
	ctx.Context = context.WithoutCancel(ctx)
	ctx, unload := caddy.NewContext(ctx)
	value, err := l.build(ctx)
	if err != nil {
		unload()
		return nil, err
	}
	return &madeTLS[T]{value, unload}, nil
}

// get returns the newest value.
func (l *liveTLS[T]) get() T { return l.now.Load().value }

// run watches the files until ctx ends. When a new value is made, it calls replaced
// with the old one. If none can be made of the files, because not all are replaced
// yet, the last value stays, and run tries again at each check.
func (l *liveTLS[T]) run(ctx context.Context, log *slog.Logger, replaced func(old T)) {
	defer func() { l.now.Load().unload() }()
	failing := false
	l.files.run(ctx, func(names []string) error {
		made, err := l.again()
		if err != nil {
			if !failing {
				log.Warn("TLS files were replaced, but they cannot be used: what they held before still counts", "files", names, "error", err)
			}
			failing = true
			return err
		}
		failing = false
		log.Info("TLS files were replaced: new connections use what they hold now", "files", names)
		old := l.now.Swap(made)
		replaced(old.value)
		old.unload()
		return nil
	})
}

// liveRoundTripper lets the newest transport send a request.
type liveRoundTripper[T http.RoundTripper] struct{ *liveTLS[T] }

// RoundTrip implements http.RoundTripper.
func (rt liveRoundTripper[T]) RoundTrip(req *http.Request) (*http.Response, error) {
	return rt.get().RoundTrip(req)
}

// tlsFiles returns the files that TLS settings name.
func tlsFiles(settings *reverseproxy.TLSConfig) []string {
	if settings == nil {
		return nil
	}
	files := []string{settings.ClientCertificateFile, settings.ClientCertificateKeyFile}
	//lint:ignore SA1019 a config may still use it
	files = append(files, settings.RootCAPEMFiles...)
	files = append(files, poolFiles(settings.CARaw)...)
	return slices.DeleteFunc(files, func(name string) bool { return name == "" })
}

// poolFiles returns the files that a pool of trusted certificates is read from: those
// of Caddy's pools "file" and "combined".
func poolFiles(raw json.RawMessage) []string {
	var pool struct {
		Provider string            `json:"provider"`
		PEMFiles []string          `json:"pem_files"`
		Sources  []json.RawMessage `json:"sources"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &pool) != nil { // Caddy says what is wrong with it
		return nil
	}
	switch pool.Provider {
	case "file":
		return pool.PEMFiles
	case "combined":
		var files []string
		for _, source := range pool.Sources {
			files = append(files, poolFiles(source)...)
		}
		return files
	}
	return nil
}

// copyTransport copies a transport's settings. Caddy empties the fields from which it
// loads modules, so settings that are used again must be copied first.
func copyTransport(settings *reverseproxy.HTTPTransport) *reverseproxy.HTTPTransport {
	c := *settings
	c.TLS = copyTLS(settings.TLS)
	if settings.Resolver != nil { // Caddy parses its addresses into it, while another transport uses them
		c.Resolver = &reverseproxy.UpstreamResolver{Addresses: settings.Resolver.Addresses}
	}
	if settings.KeepAlive != nil {
		keepAlive := *settings.KeepAlive
		c.KeepAlive = &keepAlive
	}
	return &c
}

func copyTLS(settings *reverseproxy.TLSConfig) *reverseproxy.TLSConfig {
	if settings == nil {
		return nil
	}
	c := *settings
	return &c
}
