package tokensource

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddy-bearer/caddy-bearer/internal/sleep"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenstore"
)

// renewal is one attempt to bring an entry a token, shared by all who wait for
// it. This file is its way, from top to bottom: it is launched, acquires the
// right to renew, obtains a token, saves it, and finishes.
type renewal struct {
	s *Source
	e *entry

	why    Reason
	aside  bool   // it obtains nothing: it only writes, or only reads, the store
	urgent bool   // a request waits for it
	forced *Token // the token that the API refused, if one did; guarded by e.mu

	done chan struct{} // closed at the end, after tok and err are set
	tok  *Token
	err  error

	// The renewal's goroutine alone uses these:

	via   string    // how the token came; see the constants
	lease *lease    // the right to renew, among processes; nil: none is needed
	asked time.Time // when the last call began
	// unsettled: the store could not be read, see errUnsettled.
	unsettled bool
	code      bool // it exchanges a code
	noInitial bool // the initial refresh token is known to be refused for good
	noted     bool // it wrote a note, see pending.go
	entered   bool // it has its turn at the gate, and has to leave
	called    bool // it made a token call
	revived   bool // it refreshed because a response's token was dead, see bury
	// unreadable: a response's expiry was there and could not be read.
	unreadable bool
}

// How a token came.
const (
	viaGrant   = "grant"
	viaRefresh = callRefresh
	viaStore   = "store"
)

// procedure is what a renewal does to get a token.
type procedure func(r *renewal, ctx context.Context) (*Token, error)

// launch starts a renewal. The caller holds e.mu, and none is running. cause is
// the context of the request that started it, for the observer: neither its end
// nor its values reach the renewal, for a proxy's say where to connect to and
// whom to tell of a 103. nil: the source is closed.
func (s *Source) launch(cause context.Context, e *entry, why Reason, forced *Token, do procedure) *renewal {
	return s.launchUrgent(cause, e, why, forced, do, why != ReasonAhead && why != reasonResume)
}

// launchUrgent is launch where it is known whether a request waits, or might as
// well.
func (s *Source) launchUrgent(cause context.Context, e *entry, why Reason, forced *Token, do procedure, urgent bool) *renewal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	r := &renewal{
		s: s, e: e, why: why, forced: forced, urgent: urgent,
		aside: why == reasonWrite || why == reasonResume,
		done:  make(chan struct{}),
	}
	e.begin(r)
	go r.run(cause, do)
	return r
}

// wait waits for the renewal's end, no longer than ctx.
func (r *renewal) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil { // gone already: whatever the renewal is about to bring
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run does what the renewal is for and finishes it, whatever happens meanwhile.
func (r *renewal) run(cause context.Context, do procedure) {
	s := r.s
	ctx, cancel := context.WithTimeout(s.life, s.cfg.RenewalTimeout)
	defer cancel()

	start := time.Now()
	observed := func(Outcome) {}
	if !r.aside {
		ctx, observed = s.cfg.Observer.Renewing(ctx, cause, Renewal{s.cfg.Name, s.GrantType(), r.why})
	}
	t, err := r.guarded(ctx, do)
	r.leave()
	was := r.e.lastFailure()
	lost, err := r.finish(t, err)
	o := Outcome{Via: r.via, Err: err, Took: time.Since(start), ExpiryUnreadable: r.unreadable}
	if err == nil && t != nil {
		o.Expiry = t.Expiry()
	}
	observed(o)
	close(r.done)
	s.logRenewal(r, was, o)
	if lost {
		s.log.Error("a person must authorize again: the refresh token is refused for good", "source", s.cfg.Name, "key", r.e.key.String(), "error", err)
		s.cfg.Observer.Lost(s.cfg.Name, r.e.key.String(), err)
	}
}

var errPanicked = fmt.Errorf("the renewal panicked: %w", ErrUnavailable)

// guarded does it, and makes a failure of a panic.
func (r *renewal) guarded(ctx context.Context, do procedure) (t *Token, err error) {
	defer func() {
		if v := recover(); v != nil {
			// The panic's value may hold anything, a secret too: its type is told.
			r.s.log.Error("token renewal panicked", "source", r.s.cfg.Name, "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
			t, err, r.via = nil, errPanicked, ""
			r.lease.release(ctx, err)
		}
	}()
	return do(r, ctx)
}

// renew is the ordinary procedure: what the store has, else a refresh, else the
// grant again.
func (r *renewal) renew(ctx context.Context) (t *Token, err error) {
	const rounds = 3 // another process may be faster again and again, but not for ever
	for range rounds {
		var again bool
		if t, again, err = r.renewOnce(ctx); !again {
			break
		}
	}
	return t, err
}

// renewOnce renews under one lease. again says that it is worth another: the
// store has something newer than what was refused, or than the lease.
func (r *renewal) renewOnce(ctx context.Context) (t *Token, again bool, err error) {
	cur, done, err := r.acquire(ctx)
	if done || err != nil {
		return cur, false, err
	}
	t, err = r.obtain(ctx, cur)
	r.leave()
	if err == nil {
		return t, false, nil
	}
	r.lease.release(ctx, err)
	if errors.Is(err, errLeaseLost) || errors.Is(err, errRevive) {
		return nil, true, err
	}
	if FaultOf(err) == FaultConsent || FaultOf(err) == FaultSuspected {
		// Another process may have been faster: then the refusal is of a refresh
		// token that is no longer the one.
		if st, readErr := r.s.read(ctx, r.e); readErr == nil && newer(st.token, cur) {
			return nil, true, err
		}
	}
	return nil, false, err
}

// acquire reads the store and takes the lease. It returns the newest token that
// there is; done says that somebody else has renewed it, and that it is what
// this renewal is for.
func (r *renewal) acquire(ctx context.Context) (cur *Token, done bool, err error) {
	s, e := r.s, r.e
	e.mu.Lock()
	cur, unwritten, refusal := e.tok, e.unsaved(), e.failure()
	e.mu.Unlock()
	if unwritten.is && unwritten.unsettled {
		// Its generation is known only when it is written.
		if cur, err = r.rewrite(ctx); err != nil {
			cur = e.current()
		}
		r.via = ""
	}
	var st *stored
	if err == nil {
		st, r.lease, done, err = r.claim(ctx, cur, func(st *stored) (bool, error) { return r.enough(st, cur, refusal) })
	}
	switch {
	case done:
		r.via = viaStore // finish makes it the entry's
		return st.token, true, nil
	case err == nil:
		if s.instead(e, st.token, cur) {
			cur = st.token
		}
	case st != nil: // it was read: something else stands against a renewal
		return nil, false, err
	default:
		if err = s.withoutStore(cur, err); err != nil {
			return nil, false, err
		}
		r.unsettled = true
	}
	return cur, false, nil
}

// enough reports whether nothing is to be sent, after all: for somebody else
// has renewed, or for a reason that is the error.
func (r *renewal) enough(st *stored, cur *Token, refusal failure) (bool, error) {
	s := r.s
	if r.useful(st, cur) {
		return true, nil
	}
	if cur != nil {
		cur.refresh.recall(st.rec.RefreshToken)
	}
	best := cur
	if s.instead(r.e, st.token, cur) {
		best = st.token
	} else if r.withheld(refusal) {
		return false, refusal.err // and the store has nothing newer
	}
	if refused := st.rec.Refused != nil; best == nil {
		// Of a damaged record only this is known: the initial refresh token was
		// used before.
		r.noInitial = refused || (st.damaged && s.grant.Interactive)
	} else if refused && st.rec.Generation == best.generation {
		best.orphan.Store(true) // another process was told so
	}
	if s.grant.Interactive && r.refreshToken(best).Empty() {
		return false, r.personNeeded(best)
	}
	return false, nil
}

// withheld reports whether a refusal is remembered so that nothing is sent.
func (r *renewal) withheld(f failure) bool {
	switch {
	case f.err == nil || errors.Is(f.err, tokenstore.ErrUnreadable) || !time.Now().Before(f.callAt):
		return false
	case f.fault == FaultSuspected || f.fault == FaultUser:
		// else it was the client's fault, or it is found out whether it is
		return !r.s.gate.pardoned(f.at) && !r.s.gate.tryRefused(time.Now())
	}
	return true
}

// useful reports whether somebody else has stored what this renewal is for.
func (r *renewal) useful(st *stored, cur *Token) bool {
	r.e.mu.Lock()
	refused := r.forced
	r.e.mu.Unlock()
	return r.s.instead(r.e, st.token, cur) && stateAt(time.Now(), st.token) != expired &&
		(refused == nil || st.token.AccessToken() != refused.AccessToken())
}

// personNeeded tells a token that was lost from one that was never there.
func (r *renewal) personNeeded(t *Token) error {
	if r.noInitial || (t != nil && t.orphan.Load()) {
		return errLost
	}
	return ErrAuthorizationRequired
}

// errLost: there was a refresh token, and it is refused for good.
var errLost = fmt.Errorf("the refresh token is no good any more: %w", ErrAuthorizationRequired)

// instead reports whether what is stored takes the place of what is in memory:
// it is newer, or of the same generation and not the same, after a fail-over
// that lost our write.
func (s *Source) instead(e *entry, stored, cur *Token) bool {
	if newer(stored, cur) || stored == nil || stored.generation < cur.generation {
		return newer(stored, cur)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.unsaved().is && stored.AccessToken() != cur.AccessToken()
}

func newer(stored, cur *Token) bool {
	return stored != nil && (cur == nil || stored.generation > cur.generation)
}

// withoutStore decides whether a renewal may go on though the store could not
// be read or written. Where a person's consent hangs on a refresh token, an
// unread record may hold the only good one; and a refresh token is not spent
// on a next one that could not be written. Where the grant can be repeated,
// the token that is there serves first.
func (s *Source) withoutStore(cur *Token, err error) error {
	if errors.Is(err, tokenstore.ErrUnreadable) {
		return unreadable{err}
	}
	if s.grant.Interactive || (cur != nil && cur.refresh.is() && stateAt(time.Now(), cur) != expired) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.log.Warn("token store not readable; going on without it", "source", s.cfg.Name, "error", err)
	return nil
}

// obtain makes the token calls: a refresh if there is a refresh token, else, or
// if that comes to nothing and nobody is needed, the grant.
func (r *renewal) obtain(ctx context.Context, cur *Token) (*Token, error) {
	s := r.s
	v := Vars{s.cfg.KeyNames, r.e.key}
	g := s.cfg.Grant
	refresh := r.refreshToken(cur)
	if !refresh.Empty() {
		r.lease.sends(refresh)
		res, err := r.call(ctx, callRefreshToken, func(ctx context.Context) (*tokenendpoint.Response, error) { return g.Refresh(ctx, v, refresh) })
		if err == nil {
			if res.RefreshToken.Empty() { // RFC 6749, section 6: the old one stays good
				res.RefreshToken = refresh
			}
			r.via = viaRefresh
			return r.take(ctx, cur, res, false)
		}
		if brings(res) {
			return nil, r.bury(ctx, cur, res, cur, err)
		}
		switch fault := FaultOf(err); {
		case s.grant.Interactive:
			if fault == FaultConsent && cur != nil {
				cur.orphan.Store(true)
			}
			return nil, err
		case fault == FaultConsent:
			r.e.refreshRefused(sumOf(refresh.Reveal()))
		case fault == FaultSuspected, fault == FaultUser, fault == FaultClient:
			r.e.refreshFailed(sumOf(refresh.Reveal()), time.Now().Add(suspectRetry))
		case stateAt(time.Now(), cur) != expired || endpointError(err) == nil:
			return nil, err // the token serves on, and there is time to try again
		default:
			// A request waits that could still succeed. But an endpoint that is out of
			// order is called once a second, not twice.
			r.e.refreshFailed(sumOf(refresh.Reveal()), time.Time{})
			if s.grant.SameEndpoint {
				if err := sleep.For(ctx, time.Until(r.asked.Add(probeEvery))); err != nil {
					return nil, err
				}
			}
		}
	}
	if s.grant.Interactive {
		return nil, r.personNeeded(cur)
	}
	res, err := r.call(ctx, callGrant, func(ctx context.Context) (*tokenendpoint.Response, error) { return g.Token(ctx, v) })
	switch {
	case brings(res) && err != nil:
		return nil, r.bury(ctx, cur, res, nil, err)
	case err != nil:
		return nil, err
	}
	keep := false
	if cur != nil && !cur.orphan.Load() {
		// The refresh came to nothing, or was put off: it may work the next time.
		_, keep = r.e.mayRefresh(cur.refresh.sum, time.Now())
	}
	r.via = viaGrant
	return r.take(ctx, cur, res, keep)
}

// refreshToken returns the refresh token to use, empty if there is none that
// is any good.
func (r *renewal) refreshToken(cur *Token) tokenendpoint.Secret {
	g := &r.s.grant
	// Without a store nobody knows who else may be sending it.
	if !g.Refreshable || r.noInitial || (r.unsettled && !g.Interactive) {
		return tokenendpoint.Secret{}
	}
	refresh := g.InitialRefreshToken
	if cur != nil && cur.refresh.is() {
		if cur.orphan.Load() || !cur.refresh.known() { // forgotten, and no longer in the store
			return tokenendpoint.Secret{}
		}
		refresh = tokenendpoint.NewSecret(cur.refresh.reveal())
	}
	if may, _ := r.e.mayRefresh(sumOf(refresh.Reveal()), time.Now()); !may && !g.Interactive {
		return tokenendpoint.Secret{}
	}
	return refresh
}

// enter waits for the renewal's turn to make calls, and reports whether it had
// to wait.
func (r *renewal) enter(ctx context.Context) (waited bool, err error) {
	if r.entered {
		return false, nil
	}
	waited, err = r.s.gate.enter(ctx, r.e.key, r.urgent)
	r.entered = err == nil
	return waited, err
}

// leave lets the next renewal have its turn.
func (r *renewal) leave() {
	if r.entered {
		r.entered = false
		r.s.gate.leave()
	}
}

// call makes a token call in the renewal's turn, and judges its failure. A
// response whose token is dead is one; where a refresh token came in it, the
// response is returned with the error, for [renewal.bury].
//
// The call has all its time, however long it took until it may be made: a
// response must not be cut off, for it may hold the only good refresh token.
func (r *renewal) call(ctx context.Context, kind callKind, send func(context.Context) (*tokenendpoint.Response, error)) (res *tokenendpoint.Response, err error) {
	s := r.s
	if _, err := r.enter(ctx); err != nil {
		return nil, err
	}
	done, err := s.gate.breaker.Allow(s.cfg.RenewalTimeout)
	switch {
	case err == nil:
	case kind == callCode:
		done = func(Verdict) {} // a person's code is worth a call in any state
	default:
		return nil, err
	}
	verdict := Fails // of a panic
	defer func() { done(verdict) }()
	if err := r.lease.ensure(ctx); err != nil {
		verdict = Neutral
		return nil, err
	}
	if s.isClosed() {
		verdict = Neutral
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ErrClosed)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RenewalTimeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	stop := r.lease.keep(ctx)
	defer stop() // of a panic too
	r.called = true
	r.asked = time.Now()
	res, err = send(r.lease.calling(ctx))
	stop()
	dead := err == nil && r.isDead(res)
	if dead && !r.mayRevive(res) {
		err = res.Dead()
	}
	if err != nil {
		err = r.judged(kind, err)
		verdict = verdictOf(err)
		return res, err
	}
	verdict = Works
	s.gate.succeeded(kind, time.Since(r.asked))
	if dead {
		return res, errRevive
	}
	return res, nil
}

// judged finds out whose fault a call's failure is, and tells the gate. A failure
// that is not the endpoint's answer, or its silence, is returned as it is.
func (r *renewal) judged(kind callKind, err error) error {
	ee := endpointError(err)
	if ee == nil || r.s.isClosed() {
		return err
	}
	j := judge(ee, r.s.gate.evidence(evidence{
		call: kind, perKey: kind == callGrant && r.s.grant.PerKey, ownClient: r.s.grant.ClientPerKey, doubt: r.lease.inDoubt(),
	}))
	fault := r.s.gate.refused(r.e.key, r.asked, err, j)
	return &Failure{Fault: fault, Err: err, lost: r.s.grant.Interactive && kind == callRefreshToken}
}

// take makes a token of a response and saves it, before anyone uses it. If the
// store fails the token serves from memory and the write is retried. keep says that
// cur's refresh token stays good if the response has none.
func (r *renewal) take(ctx context.Context, cur *Token, res *tokenendpoint.Response, keep bool) (*Token, error) {
	s := r.s
	if !tokenendpoint.ValidToken(res.AccessToken.Reveal()) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, tokenendpoint.ErrBadToken)
	}
	t := newToken(res.AccessToken.Reveal(), res.RefreshToken.Reveal())
	// One that is forgotten, and that the store was not asked for, is recalled when
	// the token is written.
	if keep && res.RefreshToken.Empty() && (cur.refresh.known() || r.unsettled) {
		t.refresh.take(&cur.refresh)
	}
	var refreshed *Token
	if r.via == viaRefresh {
		refreshed = cur
	}
	t.keepMembers(s, res, refreshed)
	if res.Expiry.State == tokenendpoint.ExpiryUnreadable {
		r.unreadable = true
		s.expiryUnreadable(res.Expiry)
	}
	// The provider began to count at some time during the call: at its beginning,
	// to be sure.
	lifetime, _ := expiryOf(res.Expiry, s.cfg.Lifetime)
	t.live(r.asked, lifetime, s.cfg.RefreshAhead, random())
	t.took = max(time.Since(r.asked), 0)
	t.generation, t.byCode, t.own = 1, r.code, true
	if cur != nil {
		t.generation = cur.generation + 1
		t.sameAs(cur)
	}
	return r.keep(ctx, t), nil
}

// keep saves a token, and notes whether that worked.
func (r *renewal) keep(ctx context.Context, t *Token) *Token {
	s, e := r.s, r.e
	var err error
	if s.forgets() {
		t.refresh.mayForget()
	}
	changes := s.storeChanges.Load()
	if r.unsettled {
		err = errUnsettled
	} else {
		t, err = r.save(ctx, t)
	}
	moved := err == nil && changes != s.storeChanges.Load() // it was written to the one before
	u := unsaved{
		is: err != nil || moved, unsettled: r.unsettled, copy: moved, next: time.Now().Add(backoffBase),
		check: s.store != nil && t.refresh.is(),
	}
	if err == nil && !moved {
		u.next = time.Now().Add(checkAfter)
	}
	e.obtained(u)
	if err != nil {
		s.log.Error("token not stored: it serves from memory and would be lost with this process",
			"source", s.cfg.Name, "key", e.key.String(), "error", err)
	}
	return t
}

// isDead reports whether a response's token has expired already.
func (r *renewal) isDead(res *tokenendpoint.Response) bool {
	_, dead := expiryOf(res.Expiry, r.s.cfg.Lifetime)
	return dead
}

// mayRevive reports whether a refresh is to bring a living token in place of the
// response's dead one: once in a renewal, for an endpoint's clock may be wrong.
func (r *renewal) mayRevive(res *tokenendpoint.Response) bool {
	return !r.revived && r.s.grant.Refreshable && brings(res)
}

// brings reports whether a refresh token came in a response.
func brings(res *tokenendpoint.Response) bool { return res != nil && !res.RefreshToken.Empty() }

// errRevive: the response's token is dead, and the refresh token that came with
// it is to be used at once.
var errRevive = fmt.Errorf("the dead token is refreshed: %w", ErrUnavailable)

// bury saves the refresh token of a response whose access token is dead, for it
// may be the only good one. While the token from before still lives, that one
// serves on. last is the token that was refreshed, nil if none was. It returns
// err.
func (r *renewal) bury(ctx context.Context, cur *Token, res *tokenendpoint.Response, last *Token, err error) error {
	r.revived = true
	var t *Token
	if cur != nil && stateAt(time.Now(), cur) != expired {
		t = cur.withRefresh(res.RefreshToken.Reveal())
	} else {
		t = newToken(res.AccessToken.Reveal(), res.RefreshToken.Reveal())
		t.keepMembers(r.s, res, last)
		t.live(r.asked.Add(-leastLifetime), leastLifetime, r.s.cfg.RefreshAhead, 0)
	}
	t.generation, t.byCode = 1, r.code
	if cur != nil {
		t.generation = cur.generation + 1
	}
	r.e.supersede(r.keep(ctx, t))
	r.lease = nil // the token was written over it
	return err
}

// errUnsettled: the store could not be read, so what generation the token is
// of is known only when it is written.
var errUnsettled = errors.New("the store could not be read before")

// save writes a token over the lease of the renewal that brought it. The end of
// ctx does not cut it off: by then the provider has given the token, and may
// give no other. If somebody else has stored one meanwhile, that one is
// returned, unless ours is what a person brought just now.
func (r *renewal) save(ctx context.Context, t *Token) (*Token, error) {
	s, e := r.s, r.e
	if s.store == nil {
		return t, nil
	}
	ctx = context.WithoutCancel(ctx)
	at := s.store.Stamp()
	over := r.lease.written()
	for range maxConflicts {
		if over != nil {
			rec := tokenstore.Record{Renewed: &at, Codes: over.rec.Codes}
			put(&rec, t)
			if _, err := s.write(ctx, e, over.raw, &rec); !errors.Is(err, tokenstore.ErrConflict) {
				return t, err
			}
		}
		st, err := s.read(ctx, e)
		switch {
		case err != nil:
			return t, err
		case r.code && st.rec.Generation >= t.generation:
			t = t.withGeneration(st.rec.Generation + 1)
		case st.token != nil && st.rec.Generation >= t.generation:
			if st.token.AccessToken() != t.AccessToken() {
				s.log.Warn("another process has stored a newer token meanwhile: it is used", "source", s.cfg.Name, "key", e.key.String(),
					"generation", st.rec.Generation, "by", st.rec.Writer())
			}
			return st.token, nil
		}
		over = st
	}
	return t, errConflicts
}

// maxConflicts bounds the writes that meet somebody else's.
const maxConflicts = 50

var errConflicts = storeFailed(&tokenstore.Error{Err: fmt.Errorf("%d times in a row: %w", maxConflicts, tokenstore.ErrConflict)})

// finish publishes the outcome and returns its error, and whether it is new
// that the refresh token is lost. Then it sees to what comes next.
func (r *renewal) finish(t *Token, err error) (lost bool, _ error) {
	s, e := r.s, r.e
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	t = s.dueForMembers(t, now)
	lost, err = e.finish(r, t, err, now)
	s.table.weigh(e)
	r.tok, r.err = t, err
	if r.why == reasonResume && s.single == nil && t != nil && stateAt(now, t) != fresh && err == nil {
		s.launch(s.life, e, ReasonAhead, nil, (*renewal).renew) // it was cut off; no request may come for long
		return lost, nil
	}
	if r.why == reasonResume && err == nil && t == nil && s.Eager() {
		s.launchUrgent(s.life, e, ReasonFirst, nil, (*renewal).renew, false)
		return lost, nil
	}
	if r.noted {
		s.finished.add(e.key)
	}
	s.schedule(e, now)
	return lost, err
}
