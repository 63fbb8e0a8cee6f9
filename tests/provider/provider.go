package provider

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Kind names the system that a Provider plays.
type Kind int

// The systems that a Provider can play.
const (
	// Generic follows RFC 6749 and RFC 7636, and detects the reuse of a rotated refresh token.
	Generic Kind = iota
	// Mondia sells a user token for a client token, at two endpoints on two hosts.
	Mondia
	// MondiaPay takes its parameters in the query and gives tokens that nothing renews.
	MondiaPay
	// MonPay gives permanent tokens for one-time codes.
	MonPay
	// Mbanq wants a tenant on every call and renews by refresh token.
	Mbanq
)

// String gives the name that violations begin with.
func (k Kind) String() string {
	return [...]string{"generic", "mondia", "mondiapay", "monpay", "mbanq"}[k]
}

// Part is one of the hosts that a provider is spread over.
type Part int

// The parts of a provider. Only Mondia has two; for the others they are the same.
const (
	// Whole answers everything, as if all were on one host.
	Whole Part = iota
	// AuthPart is the host of the token endpoint.
	AuthPart
	// GatewayPart is the host of the API and, for Mondia, of user creation.
	GatewayPart
)

// dialect is what differs between the systems. Its methods are called with the provider's lock held and do no I/O.
type dialect interface {
	// endpoint tells what a request is addressed to.
	endpoint(r *http.Request) Endpoint
	// part tells which host an endpoint is on.
	part(e Endpoint) Part
	// read checks the form of a token request and the client's credentials. A non-nil answer refuses it.
	read(p *Provider, x *Exchange) (tokenRequest, *Answer)
	// grant answers a token request that read found to be well-formed.
	grant(p *Provider, x *Exchange, q tokenRequest) Answer
	// admit checks what an API call must have besides a live token.
	admit(p *Provider, x *Exchange) *Answer
	// unauthorized refuses an API call for want of a live token.
	unauthorized() Answer
	// echo wraps the answer to an API call that was let through.
	echo(e Echo) Answer
}

// Provider is a fake provider. All its methods may be called at any time from any goroutine.
type Provider struct {
	// What a client must present. They are fixed by New and hold the canary where they are secret.
	ClientID, ClientSecret, Username, Password, APIKey, Tenant, RedirectURI string

	kind    Kind
	canary  string
	dialect dialect
	closing chan struct{}
	once    sync.Once

	mu         sync.Mutex
	settings   settings
	tokens     map[string]*accessToken
	refreshes  map[string]*refreshToken
	codes      map[string]*code
	last       map[string]*accessToken // the newest token of each holder
	serial     int
	families   int
	alarms     int
	secrets    []string
	violations []string
	calls      []*Call
	counts     map[Endpoint]int
	tally      Counts
	retired    map[int]time.Time // when the access tokens of a family die that were issued until then
	arrivals   []chan<- Arrival
	scripts    map[Endpoint][]Step
}

// settings is what the setters of a Provider change.
type settings struct {
	lifetime       time.Duration
	clientLifetime time.Duration
	expiresIn      any
	expiresInSet   bool
	delay          time.Duration
	rotate         bool
	reissue        bool
	nested         bool
	clientAuth     string
	user           string
	ipHeader       string
	deviceHeader   string
	forgetful      bool
	grace          time.Duration
	revokeEvery    int
	minThinking    time.Duration
	maxThinking    time.Duration
	attentive      bool
	anyUser        bool
	tokenSize      int
}

// New makes a provider of the given kind with credentials of its own.
func New(kind Kind) *Provider {
	p := &Provider{
		kind:      kind,
		canary:    "canary" + randomHex(6),
		dialect:   dialectOf(kind),
		closing:   make(chan struct{}),
		tokens:    map[string]*accessToken{},
		refreshes: map[string]*refreshToken{},
		codes:     map[string]*code{},
		last:      map[string]*accessToken{},
		retired:   map[int]time.Time{},
		scripts:   map[Endpoint][]Step{},
		counts:    map[Endpoint]int{},
		settings: settings{
			lifetime:       defaultLifetime(kind),
			clientLifetime: defaultClientLifetime(kind),
			user:           "alice",
			ipHeader:       "X-Forwarded-For",
			deviceHeader:   "X-Device-Id",
		},
	}
	p.ClientID = "client-" + randomHex(4)
	p.ClientSecret = p.newSecret("", "client-secret")
	p.Username = "user-" + randomHex(4)
	p.Password = p.newSecret("", "password")
	p.APIKey = p.newSecret("", "api-key")
	p.Tenant = "tenant-" + randomHex(4)
	p.RedirectURI = "https://app.example/" + kind.String()
	p.addBasicForms()
	return p
}

func dialectOf(kind Kind) dialect {
	switch kind {
	case Mondia:
		return mondia{}
	case MondiaPay:
		return mondiaPay{}
	case MonPay:
		return monPay{}
	case Mbanq:
		return mbanq{}
	case Generic:
		return generic{}
	}
	panic(fmt.Sprintf("no such kind of provider: %d", kind))
}

// Kind tells which system the provider plays.
func (p *Provider) Kind() Kind { return p.kind }

// Canary is the text that every secret of this provider contains.
func (p *Provider) Canary() string { return p.canary }

// Close releases calls that a Hang holds, so that a server in front of the provider can be closed.
func (p *Provider) Close() { p.once.Do(func() { close(p.closing) }) }

// ServeHTTP answers as a provider whose endpoints are all on one host.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.serve(Whole, w, r) }

// Part answers as one host of the provider: what belongs on another host is a violation.
func (p *Provider) Part(part Part) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(part, w, r) })
}

// Violations lists every request, so far, that the real system would have refused as malformed or as a breach of
// its rules.
func (p *Provider) Violations() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.violations...)
}

// TakeViolations is Violations, and forgets them: for a test that provoked some.
func (p *Provider) TakeViolations() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.violations
	p.violations = nil
	return taken
}

// ReuseAlarms counts the presentations of a refresh token that had been rotated away.
func (p *Provider) ReuseAlarms() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alarms
}
