package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// staticToken is the one that plain Caddy sends; as long as an issued one, so
// that neither side has fewer bytes to copy.
var staticToken = strings.Repeat("5t", 32)

// settings is what a scenario may change while the upstream runs.
type settings struct {
	Lifetime time.Duration `json:"lifetime"`
	Delay    time.Duration `json:"delay"`  // of the token endpoint
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

// announcement is the line by which the upstream tells where it listens.
type announcement struct {
	Token   string   `json:"token"`
	Control string   `json:"control"`
	Lanes   []string `json:"lanes"`
}

// upstream is a provider: a token endpoint, an API that wants a live token,
// and a control port through which a scenario plays its part.
type upstream struct {
	mu     sync.RWMutex
	set    settings
	live   map[string]time.Time
	issued time.Time
	token  *http.Server // nil while it refuses connections
	addr   string       // of the token endpoint

	calls, granted, api, refused atomic.Int64
	lanes                        []*laneCounts
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

	u := newUpstream()
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

func newUpstream() *upstream {
	return &upstream{
		set:  settings{Lifetime: time.Hour},
		live: map[string]time.Time{staticToken: time.Now().AddDate(100, 0, 0)},
	}
}

func (u *upstream) listen(lanes int, conf *tls.Config) (announcement, error) {
	var where announcement
	if err := u.openToken(); err != nil {
		return where, err
	}
	where.Token = u.addr
	for range lanes {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return where, err
		}
		where.Lanes = append(where.Lanes, ln.Addr().String())
		counts := new(laneCounts)
		u.lanes = append(u.lanes, counts)
		go serveLane(ln, conf, http.HandlerFunc(u.serveAPI), counts)
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

// openToken starts the token endpoint, at the address it had before if it has
// refused connections for a while.
func (u *upstream) openToken() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.token != nil {
		return nil
	}
	addr := u.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("opening the token endpoint: %w", err)
	}
	u.addr = ln.Addr().String()
	srv := &http.Server{Handler: http.HandlerFunc(u.serveToken)}
	u.token = srv
	go func() { _ = srv.Serve(ln) }()
	return nil
}

// closeToken makes the token endpoint refuse connections, those in use too.
func (u *upstream) closeToken() {
	u.mu.Lock()
	srv := u.token
	u.token = nil
	u.mu.Unlock()
	if srv != nil {
		_ = srv.Close()
	}
}

func (u *upstream) serveToken(w http.ResponseWriter, r *http.Request) {
	u.calls.Add(1)
	u.mu.RLock()
	set := u.set
	u.mu.RUnlock()
	if set.Outage == outage503 {
		http.Error(w, `{"error":"temporarily_unavailable"}`, http.StatusServiceUnavailable)
		return
	}
	select {
	case <-time.After(set.Delay):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`,
		u.issue(set.Lifetime), int(set.Lifetime.Seconds()))
}

func (u *upstream) issue(lifetime time.Duration) string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	token := hex.EncodeToString(raw)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.issued = time.Now()
	u.live[token] = u.issued.Add(lifetime)
	u.granted.Add(1)
	return token
}

var apiBody = []byte(`{"id":"00000000-0000-4000-8000-000000000000","object":"payment","amount":1299,"currency":"EUR",` +
	`"status":"authorized","description":"what an API answers with is about this long","livemode":false}`)

func (u *upstream) serveAPI(w http.ResponseWriter, r *http.Request) {
	u.api.Add(1)
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	u.mu.RLock()
	until, ok := u.live[token]
	u.mu.RUnlock()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if !ok || time.Now().After(until) {
		u.refused.Add(1)
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = w.Write(apiBody)
}
