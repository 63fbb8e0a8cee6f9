package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	fake "github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// control is the upstream's side of a scenario.
func (u *upstream) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /settings", func(w http.ResponseWriter, r *http.Request) {
		var s settings
		err := json.NewDecoder(r.Body).Decode(&s)
		if err == nil {
			err = u.apply(s)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("POST /revoke", func(http.ResponseWriter, *http.Request) { u.RevokeClientTokens() })
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(u.stats())
	})
	return mux
}

func (u *upstream) apply(s settings) error {
	u.SetLifetime(s.Lifetime)
	u.SetThinking(s.Delay, s.Delay)
	u.ClearScripts()
	switch s.Outage {
	case outage503:
		u.ScriptToken(fake.Always(fake.Status(http.StatusServiceUnavailable, nil, `{"error":"temporarily_unavailable"}`)))
	case outageRefuse:
		u.Refuse()
		return nil
	}
	return u.Resume()
}

func (u *upstream) stats() stats {
	c := u.Counts()
	s := stats{
		TokenCalls: int64(u.TokenCount()), TokenIssued: int64(c.Grants),
		APICalls: int64(c.API), APIRefused: int64(c.Unauthorized),
	}
	for _, call := range slices.Backward(u.TokenCalls()) {
		if call.Outcome == fake.Issued {
			s.LastIssued = call.Decided
			break
		}
	}
	for _, l := range u.lanes {
		s.Lanes = append(s.Lanes, lane{l.conns.Load(), l.handshakes.Load(), l.resumed.Load()})
	}
	return s
}

// provider is the upstream as seen from the process that measures.
type provider struct {
	announcement
	ca string // file with the certificate of its API, if that speaks TLS
}

// provider starts an upstream on the load core.
func (l *lab) provider(ctx context.Context, lanes int, overTLS, h2 bool) (*provider, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	args := []string{"-lanes", strconv.Itoa(lanes), "-h2=" + strconv.FormatBool(h2)}
	p := new(provider)
	if overTLS {
		args = append(args, "-tls", l.dir)
		p.ca = filepath.Join(l.dir, "ca.pem")
	}
	proc, err := l.self("upstream", args, l.loadCore, w)
	w.Close()
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the upstream did not start: %w\n%s", err, proc.tail())
	}
	if err := json.Unmarshal(line, &p.announcement); err != nil {
		return nil, err
	}
	return p, proc.listening(ctx, p.Control)
}

func (p *provider) apply(ctx context.Context, s settings) error {
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = p.call(ctx, http.MethodPost, "/settings", body)
	return err
}

func (p *provider) revoke(ctx context.Context) error {
	_, err := p.call(ctx, http.MethodPost, "/revoke", nil)
	return err
}

func (p *provider) stats(ctx context.Context) (stats, error) {
	var s stats
	body, err := p.call(ctx, http.MethodGet, "/stats", nil)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(body, &s)
}

func (p *provider) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.Control+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("upstream control %s: %s: %s", path, resp.Status, answer)
	}
	return answer, err
}
