package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// contender is a proxy under load.
type contender struct {
	name string
	addr string
	*process

	admin string // address of Caddy's admin endpoint, when it has one
	api   string // host:port that an intercepted app calls; empty: it calls the proxy
}

// client is an app of this proxy.
func (c *contender) client() doer {
	if c.api != "" {
		return newInterceptedClient(c.addr, c.api)
	}
	return newClient(c.addr)
}

// The kinds of contender.
const (
	plain     = "plain"      // plain Caddy with a static header
	plain256  = "plain-256"  // the same with as many idle connections as clients
	plainToo  = "plain-2"    // a second plain Caddy, for an A/A control
	bearer    = "module"     // the handler
	intercept = "intercept"  // the handler under bearer_intercept: the app calls the API itself, over TLS
	transport = "transport"  // reverse_proxy with the module's transport
	bearerOld = "module-old" // the same of an older binary
	peer      = "x/oauth2"
)

// caddyfile is the same for all Caddys, but for how the token gets into the
// request. Logs are at their default level and there is no access log.
func caddyfile(kind, listen, admin string, p *provider, lane int) string {
	global, options := "", ""
	upstream := "http://" + p.Lanes[lane]
	if p.ca != "" {
		upstream, options = "https://"+p.Lanes[lane], "tls_trust_pool file "+p.ca
	}
	if kind == plain256 {
		options += "\n\t\t\tkeepalive_idle_conns_per_host 256"
	}
	static := fmt.Sprintf("header_up Authorization \"Bearer %s\"", p.StaticToken)
	way := fmt.Sprintf("reverse_proxy %s {\n\t\t%s\n\t\ttransport http {\n\t\t\t%s\n\t\t}\n\t}", upstream, static, options)
	switch kind {
	case bearer:
		way = fmt.Sprintf("bearer bench %s {\n\t\t%s\n\t}", upstream, options)
	case intercept:
		way = fmt.Sprintf("bearer_intercept {\n\t\t%s bench {\n\t\t\t%s\n\t\t}\n\t}", p.Lanes[lane], options)
	case transport, bearerOld:
		way = fmt.Sprintf("reverse_proxy %s {\n\t\ttransport bearer bench {\n\t\t\t%s\n\t\t}\n\t}", upstream, options)
	}
	site := listen
	if kind == intercept { // its requests are for the API's name, not the site's
		_, port, _ := strings.Cut(listen, ":")
		site = ":" + port
	}
	if isModule(kind) {
		global = fmt.Sprintf(`
	token_source bench {
		grant client_credentials {
			token_url %s
			client_id %s
			client_secret %s
		}
	}`, p.TokenURL, p.ClientID, p.ClientSecret)
	}
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	default_bind 127.0.0.1
	skip_install_trust
	metrics
%s
}
http://%s {
	%s
}
`, admin, global, site, way)
}

func isModule(kind string) bool {
	return kind == bearer || kind == intercept || kind == transport || kind == bearerOld
}

// contender starts a proxy of some kind in front of one lane of the provider.
func (l *lab) contender(ctx context.Context, kind string, p *provider, lane int, admin bool) (*contender, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	c := &contender{name: kind, addr: addr}
	if kind == intercept {
		c.api = p.Lanes[lane]
	}
	if kind == peer {
		c.process, err = l.self("peer", peerArgs(addr, p, lane), l.proxyCore, nil)
	} else {
		err = l.caddy(c, kind, p, lane, admin)
	}
	if err != nil {
		return nil, err
	}
	return c, c.listening(ctx, addr)
}

func (l *lab) caddy(c *contender, kind string, p *provider, lane int, admin bool) error {
	adminAddr := "off"
	if admin {
		var err error
		if c.admin, err = freeAddr(); err != nil {
			return err
		}
		adminAddr = c.admin
	}
	config := filepath.Join(l.dir, fmt.Sprintf("%03d-%s.caddyfile", l.count+1, kind))
	if err := os.WriteFile(config, []byte(caddyfile(kind, c.addr, adminAddr, p, lane)), 0o600); err != nil {
		return err
	}
	binary := l.plain
	switch kind {
	case bearer, intercept, transport:
		binary = l.sidecar
	case bearerOld:
		binary = l.old
	}
	binary, err := l.ownFile(binary)
	if err != nil {
		return err
	}
	c.process, err = l.start(kind, binary, []string{"run", "--adapter", "caddyfile", "--config", config}, l.proxyCore, nil)
	return err
}

// answers checks that a proxy does its work before anything is measured: a
// proxy that refuses every request does so at a remarkable speed.
func (c *contender) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn := c.client()
	defer conn.close()
	for {
		status, err := conn.do()
		if status == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s answers %d (%v):\n%s", c.name, status, err, c.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func clients(cs []*contender) []func() doer {
	out := make([]func() doer, len(cs))
	for i, c := range cs {
		out[i] = c.client
	}
	return out
}

func names(cs []*contender) string {
	out := make([]string, len(cs))
	for i, c := range cs {
		out[i] = c.name
	}
	return strings.Join(out, ", ")
}
