package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	fake "github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// settings is what a scenario may change while the upstream runs.
type settings struct {
	Lifetime time.Duration `json:"lifetime"`
	Delay    time.Duration `json:"delay"`  // of the token endpoint, before it issues a token
	Outage   string        `json:"outage"` // "", outageRefuse or outage503
}

const (
	outageRefuse = "refuse"
	outage503    = "503"
)

// stats is what the upstream has seen.
type stats struct {
	TokenCalls  int64     `json:"token_calls"`  // that reached the endpoint
	TokenIssued int64     `json:"token_issued"` // answered with a token
	LastIssued  time.Time `json:"last_issued"`
	APICalls    int64     `json:"api_calls"`
	APIRefused  int64     `json:"api_refused"` // answered with 401
	Lanes       []lane    `json:"lanes"`
}

// lane is one listener of the API. Every proxy gets one of its own, so that
// its connections can be told from the others'.
type lane struct {
	Conns      int64 `json:"conns"`
	Handshakes int64 `json:"handshakes"`
	Resumed    int64 `json:"resumed"`
}

// announcement is the line by which the upstream tells where it listens, and
// what it wants to see.
type announcement struct {
	TokenURL     string   `json:"token_url"`
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	StaticToken  string   `json:"static_token"` // that plain Caddy sends: like an issued one, and never revoked
	Control      string   `json:"control"`
	Lanes        []string `json:"lanes"`
}

// upstream is a provider, with an API on many listeners and a control port
// through which a scenario plays its part.
type upstream struct {
	*fake.Server
	lanes []*laneCounts
}

type laneCounts struct{ conns, handshakes, resumed atomic.Int64 }

func serveUpstream(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("upstream", flag.ContinueOnError)
	lanes := fs.Int("lanes", 1, "listeners of the API")
	tlsDir := fs.String("tls", "", "serve the API over TLS and write its certificate into this folder")
	h2 := fs.Bool("h2", false, "offer HTTP/2 over TLS")
	if err := fs.Parse(args); err != nil {
		return err
	}

	u, err := newUpstream()
	if err != nil {
		return err
	}
	defer u.Close()
	var conf *tls.Config
	if *tlsDir != "" {
		cert, err := selfSigned(filepath.Join(*tlsDir, "ca.pem"))
		if err != nil {
			return err
		}
		conf = serverTLS(cert, *h2)
	}
	where, err := u.listen(*lanes, conf)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(where); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func newUpstream() (*upstream, error) {
	p := fake.New(fake.Generic)
	// nothing is issued to a proxy that is gone by then
	p.SetAttentive(true)
	s, err := fake.Start(p)
	return &upstream{Server: s}, err
}

func (u *upstream) listen(lanes int, conf *tls.Config) (announcement, error) {
	where := announcement{
		TokenURL: u.URL + "/token", ClientID: u.ClientID, ClientSecret: u.ClientSecret,
		StaticToken: u.NewAccessToken("plain", 0),
	}
	api := u.Fast(apiBody)
	for range lanes {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return where, err
		}
		where.Lanes = append(where.Lanes, ln.Addr().String())
		counts := new(laneCounts)
		u.lanes = append(u.lanes, counts)
		go serveLane(ln, conf, api, counts)
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return where, err
	}
	where.Control = control.Addr().String()
	go func() { _ = http.Serve(control, u.control()) }()
	return where, nil
}

func serveLane(ln net.Listener, conf *tls.Config, api http.Handler, counts *laneCounts) {
	srv := &http.Server{
		Handler: api,
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				counts.conns.Add(1)
			}
		},
	}
	if conf == nil {
		_ = srv.Serve(ln)
		return
	}
	srv.TLSConfig = conf.Clone()
	srv.TLSConfig.VerifyConnection = func(cs tls.ConnectionState) error {
		counts.handshakes.Add(1)
		if cs.DidResume {
			counts.resumed.Add(1)
		}
		return nil
	}
	_ = srv.ServeTLS(ln, "", "")
}

var apiBody = []byte(`{"id":"00000000-0000-4000-8000-000000000000","object":"payment","amount":1299,"currency":"EUR",` +
	`"status":"authorized","description":"what an API answers with is about this long","livemode":false}`)
