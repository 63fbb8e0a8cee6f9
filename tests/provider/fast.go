package provider

import (
	"net/http"
	"strings"
	"time"
)

// Fast is the provider's API for benchmarks: it answers every call that has a live token with the same JSON. Calls are
// counted and not listed, no script applies to them, and nothing of them is looked at but the token.
func (p *Provider) Fast(body []byte) http.Handler {
	refusal := p.dialect.unauthorized()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.letIn(r) {
			for name, values := range refusal.Header {
				w.Header()[name] = values
			}
			w.WriteHeader(refusal.Status)
			_, _ = w.Write(refusal.Body)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
}

// letIn counts a call and reports whether it has a live token.
func (p *Provider) letIn(r *http.Request) bool {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[API]++
	if t := p.tokens[token]; t != nil && t.live(now) {
		return true
	}
	p.tally.Unauthorized++
	return false
}
