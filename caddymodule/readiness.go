package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// Readiness says whether requests are served, for load balancers and people: for
// each source and for all together. It is available at the admin API and through
// the handler token_readiness.

// The statuses, from the best to the worst.
const (
	statusReady       = "ready"       // nothing is wrong, or the source was not used yet
	statusDegraded    = "degraded"    // requests are served, but somebody should look
	statusStarting    = "starting"    // the first token is being obtained
	statusUnavailable = "unavailable" // no request can succeed
)

// The reasons are a closed list. Each says what is wrong, and so whose fault it is.
const (
	reasonEndpointDown  = "endpoint_down"  // the token endpoint fails, cannot be reached, or throttles
	reasonClientRefused = "client_refused" // the token endpoint refuses the client, or what the settings ask for
	reasonConsentLost   = "consent_lost"   // refresh tokens are refused: a person must authorize again
	reasonUserRefused   = "user_refused"   // the token endpoint refuses some keys
	reasonAPIRefuses    = "api_refuses"    // the API's breaker is not closed
	reasonStoreDown     = "store_down"     // the store failed when it was last used
	reasonRecordRefused = "record_refused" // stored tokens must not be used: not sealed, sealed with another key, or of a newer release
	reasonUnstored      = "unstored"       // tokens would be lost with this process
)

// readiness is the response.
type readiness struct {
	Status  string                     `json:"status"`
	Sources map[string]sourceReadiness `json:"sources"`
}

type sourceReadiness struct {
	Status  string   `json:"status"`
	Reasons []string `json:"reasons"`
	// Details are by reason.
	Details     map[string]reasonDetail `json:"details,omitempty"`
	Tokens      int                     `json:"tokens"`
	Unstored    int                     `json:"unstored"`
	NeedsPerson int                     `json:"needs_person"`
	Breaker     string                  `json:"breaker"` // the worse of the token endpoint's and the API's
	Store       string                  `json:"store"`
}

// reasonDetail says since when a reason holds, and when the next attempt is.
type reasonDetail struct {
	Since       time.Time `json:"since,omitzero"`
	NextAttempt time.Time `json:"next_attempt,omitzero"`
	// Keys is how many keys are concerned; left out: all.
	Keys int `json:"keys,omitempty"`
}

// sourceState is what readiness depends on.
type sourceState struct {
	tokensource.Stats
	troubles []tokensource.Trouble
	keyed    bool
	eager    bool // the source obtains its first token when Caddy starts
	endpoint tokensource.BreakerState
	api      tokensource.BreakerState
}

// storeDown reports whether the store failed when it was last used.
func (s *sourceState) storeDown() bool {
	return slices.ContainsFunc(s.troubles, func(t tokensource.Trouble) bool { return t.Fault == tokensource.FaultStore })
}

// reasonOf is the reason for each fault.
var reasonOf = map[tokensource.Fault]string{
	tokensource.FaultEndpoint:  reasonEndpointDown,
	tokensource.FaultClient:    reasonClientRefused,
	tokensource.FaultConsent:   reasonConsentLost,
	tokensource.FaultSuspected: reasonConsentLost,
	tokensource.FaultUser:      reasonUserRefused,
	tokensource.FaultStore:     reasonStoreDown,
	tokensource.FaultRecord:    reasonRecordRefused,
}

// readinessOf is a pure function of a source's state. A key without a token says
// nothing about the other keys. So a keyed source is unavailable only if no key can
// get a token.
func readinessOf(s sourceState) sourceReadiness {
	r := sourceReadiness{
		Status: statusReady, Reasons: []string{}, Tokens: s.Tokens, Unstored: s.Unstored, NeedsPerson: s.NeedPerson,
		Breaker: max(s.endpoint, s.api).String(), Store: "up",
	}
	if s.storeDown() {
		r.Store = "down"
	}
	allFail := false
	for _, t := range s.troubles {
		r.because(reasonOf[t.Fault], reasonDetail{t.Since.UTC().Round(time.Millisecond), t.Next.UTC().Round(time.Millisecond), t.Keys})
		allFail = allFail || t.Fault == tokensource.FaultEndpoint || t.Fault == tokensource.FaultClient
	}
	for _, c := range []struct {
		is     bool
		reason string
	}{
		{s.Unstored > 0, reasonUnstored},
		{s.NeedPerson > 0, reasonConsentLost},
		{len(s.troubles) == 0 && s.NeedPerson == 0 && (s.Failing > 0 || s.Overdue > 0 || s.Retrying > 0), reasonEndpointDown},
		{s.api != tokensource.BreakerClosed, reasonAPIRefuses},
	} {
		if c.is {
			r.because(c.reason, reasonDetail{})
		}
	}
	switch serves := s.Tokens > 0 || s.Overdue > 0; {
	case serves:
	case s.keyed && allFail, !s.keyed && (allFail || s.Failing > 0 || s.NeedPerson > 0):
		r.Status = statusUnavailable
	case !s.keyed && s.eager:
		r.Status = statusStarting
	}
	return r
}

// because adds a reason, once.
func (r *sourceReadiness) because(reason string, d reasonDetail) {
	r.Status = statusDegraded
	if slices.Contains(r.Reasons, reason) {
		return
	}
	r.Reasons = append(r.Reasons, reason)
	if d != (reasonDetail{}) {
		if r.Details == nil {
			r.Details = make(map[string]reasonDetail)
		}
		r.Details[reason] = d
	}
}

// usable reports whether calls can succeed.
func (r *sourceReadiness) usable() bool { return r.Status == statusReady || r.Status == statusDegraded }

// worse are the statuses by how bad they are.
var worse = map[string]int{statusReady: 0, statusDegraded: 1, statusStarting: 2, statusUnavailable: 3}

// readiness returns the readiness of all sources. Its status is the worst of theirs.
func (a *App) readiness() readiness {
	all := readiness{Status: statusReady, Sources: make(map[string]sourceReadiness, len(a.built))}
	for name, src := range a.built {
		r := readinessOf(src.state())
		all.Sources[name] = r
		if worse[r.Status] > worse[all.Status] {
			all.Status = r.Status
		}
	}
	return all
}

// state returns what readiness and metrics are made of. It looks at every key.
func (src *pooledSource) state() sourceState {
	return sourceState{
		Stats: src.Stats(), troubles: src.Troubles(), keyed: len(src.KeyNames()) > 0, eager: src.Eager(),
		endpoint: src.Breaker(), api: src.live.worst(),
	}
}

// findReadiness returns the readiness of a config. A config without sources is
// ready, because there is nothing to wait for. Without a config nothing is served.
func findReadiness(ctx caddy.Context) (readiness, error) {
	if ctx.Context == nil {
		return readiness{statusUnavailable, map[string]sourceReadiness{}}, nil
	}
	app, err := ctx.AppIfConfigured(appName)
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		return readiness{statusReady, map[string]sourceReadiness{}}, nil
	case err != nil:
		return readiness{}, err
	}
	return app.(*App).readiness(), nil
}

const readinessMethods = "GET, HEAD"

func readinessMethod(method string) bool {
	return method == http.MethodGet || method == http.MethodHead
}

// write sends the readiness. The status is 503 if requests are not served, or not
// yet. It is 200 for degraded, because taking away a replica that still serves
// would make things worse.
func (r readiness) write(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if r.Status == statusUnavailable || r.Status == statusStarting {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return json.NewEncoder(w).Encode(r)
}

func init() {
	caddy.RegisterModule(new(TokenReadiness))
	httpcaddyfile.RegisterHandlerDirective("token_readiness", parseTokenReadiness)
	httpcaddyfile.RegisterDirectiveOrder("token_readiness", httpcaddyfile.Before, "reverse_proxy")
}

// TokenReadiness is a handler that says whether requests are served. It does the
// same as the admin API's /token_sources/readiness, for use where the admin API is
// off. It responds with 503 while a source cannot serve, else with 200. It serves
// only loopback and unix sockets unless callers names other ranges, and no web page.
type TokenReadiness struct {
	// The addresses and ranges that may call, compared with the connection's peer.
	// Callers on a unix socket always may. Default: the loopback ranges, 127.0.0.0/8
	// and ::1.
	Callers []string `json:"callers,omitempty"`

	ctx     caddy.Context
	callers callerCheck
}

// CaddyModule returns the Caddy module information.
func (*TokenReadiness) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.token_readiness",
		New: func() caddy.Module { return new(TokenReadiness) },
	}
}

// Provision finds the sources, if there are any.
func (tr *TokenReadiness) Provision(ctx caddy.Context) (err error) {
	tr.ctx = ctx
	if tr.callers, err = provisionCallers(ctx, nil, tr.Callers, nil); err != nil {
		return fmt.Errorf("token_readiness: callers: %w", err)
	}
	_, err = findReadiness(ctx)
	return err
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (tr *TokenReadiness) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if p := tr.callers.checkPeer(r); p != nil {
		return p.write(w, r)
	}
	if !readinessMethod(r.Method) {
		w.Header().Set("Allow", readinessMethods)
		return (&problem{name: problemMethodRefused, status: http.StatusMethodNotAllowed, detail: "expected " + readinessMethods}).write(w, r)
	}
	ready, err := findReadiness(tr.ctx)
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	return ready.write(w)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	token_readiness {
//	    callers <ranges...>
//	}
func (tr *TokenReadiness) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // token_readiness
	if d.NextArg() {
		return d.Errf("token_readiness: unexpected %q: expected its options in a block", d.Val())
	}
	return options{"callers": callersOption(&tr.Callers)}.parse(d, "token_readiness", nil, nil)
}

func parseTokenReadiness(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	tr := new(TokenReadiness)
	return tr, tr.UnmarshalCaddyfile(h.Dispenser)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*TokenReadiness)(nil)
	_ caddyhttp.MiddlewareHandler = (*TokenReadiness)(nil)
	_ caddyfile.Unmarshaler       = (*TokenReadiness)(nil)
)
