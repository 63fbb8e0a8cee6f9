package tokensource

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource/tokenendpoint"
)

// gate stands between a source's renewals and its token endpoint. It knows
// whether the endpoint works and whether it takes the client, and lets calls
// through accordingly: at once while all is well, one at a time and with
// back-off while the endpoint fails, no faster than the endpoint allows once it
// has throttled, and as single probes while it refuses the client. Renewals
// that have to wait stand in a queue, those that requests wait for first.
//
// All keys of a source share one gate: what the endpoint's state is does not
// depend on whose token is asked for.
type gate struct {
	retryMax time.Duration
	openFor  time.Duration
	breaker  *Breaker

	mu sync.Mutex

	// The endpoint.
	failures int       // in a row
	failed   error     // the last of them
	since    time.Time // when the first of them was
	began    time.Time // when the last call began
	ended    time.Time // when the last call failed
	next     time.Time // no call that nobody waits for before that
	hold     time.Time // no call at all before that: the endpoint asked for it
	worked   time.Time // when it last did its work; zero: never
	// lastToken is when a call last brought a token, with whatever client.
	lastToken time.Time
	bare      bareRefusals

	// The flow of calls.
	calls  int // under way
	window int // how many may be
	gap    time.Duration
	recent []time.Time // the last tokens, for how many a second the endpoint gives
	slowed time.Time   // when it last throttled
	learn  bool        // and gap is not known yet
	slows  int         // how often in a row
	urgent []*turn
	others []*turn
	timer  *time.Timer

	// The client.
	client clientState
}

// bareRefusals are answers of 401 without a word: a gateway's, for a moment, or
// all that the server says to a client that it does not take.
type bareRefusals struct {
	n     int
	since time.Time
}

// stay reports whether they have come for so long that they are meant.
func (b *bareRefusals) stay(now time.Time) bool {
	return b.n >= bareAttempts && now.Sub(b.since) >= bareFor
}

const (
	bareAttempts = 3
	bareFor      = 10 * time.Second
)

// clientState is what is known of the client at the endpoint.
type clientState struct {
	gotToken    time.Time // when a call last brought one; zero: never with these settings
	grantWorked bool      // by the grant
	refused     error     // why it is not taken; nil: it is, as far as is known
	certain     bool      // and that it is the client who is meant
	since       time.Time // since when
	probes      int       // that were refused since
	next        time.Time // when the next probe may be made
	// suspects are the keys that were refused since the last success, with what
	// was said: if it is said of several, it is the client that is meant.
	suspects map[Key]string
	// Suspicions that arose between these moments are taken back: they were the
	// client's fault.
	pardonFrom, pardonTo time.Time
	doubt                doubt
}

// doubt is a state in which several keys in a row were refused in words that are
// said of users, with no success in between. It may be the client all the same.
// Nobody is held back for it, but it is found out: one of the refused keys is
// tried as often as a refused client is.
type doubt struct {
	is     bool
	probes int
	next   time.Time
}

// due reports whether a refused key may be tried.
func (d *doubt) due(now time.Time) bool { return d.is && !now.Before(d.next) }

// turn is a renewal's place in the queue.
type turn struct {
	may  chan struct{} // closed when its call may be made, or err is set
	err  error
	done bool // it has left the queue
}

const (
	// startWindow is how many calls may be under way at first. It is what an
	// endpoint that throttles gets at once, and what a slow one need not wait for.
	startWindow = 16
	// maxWindow bounds the calls under way to an endpoint that is slow, and that
	// takes them all.
	maxWindow = 1024
	// slowCall is from when on more calls at once make up for the time that one
	// takes.
	slowCall = 200 * time.Millisecond
	// queueWait is how long a renewal waits for its turn.
	queueWait = 15 * time.Second
	// probeEvery is the least distance between the calls that requests bring
	// forward while the endpoint fails.
	probeEvery = time.Second
	// fasterAfter is after how long without throttling calls are made a little
	// faster again, and still a little.
	fasterAfter = 10 * time.Second
	// forgetSlow is after how long without throttling calls are no longer spaced.
	forgetSlow = time.Minute
)

func newGate(breaker BreakerSettings, retryMax time.Duration) *gate {
	// A request that waits may probe each second. For how long the breaker leaves
	// the endpoint alone is for calls that nobody waits for: see patient.
	settings := breaker
	settings.OpenFor = min(breaker.OpenFor, probeEvery) / 2
	return &gate{retryMax: max(retryMax, probeEvery), openFor: breaker.OpenFor, breaker: NewBreaker(settings), window: startWindow}
}

// check reports whether a call for the key may be made now, or would wait for
// its turn in a queue that moves. If not, it returns why, and how long it takes
// until one may be. urgent: a request waits for it.
func (g *gate) check(now time.Time, k Key, urgent bool) (time.Duration, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed(now, k, urgent)
}

// closed is check. The caller holds g.mu.
func (g *gate) closed(now time.Time, k Key, urgent bool) (time.Duration, error) {
	if wait := g.hold.Sub(now); wait > 0 && (!urgent || !g.moves(now) || wait > queueWait) {
		return wait, g.failure()
	}
	if wait := g.clientProbe(now, k).Sub(now); wait > 0 {
		return wait, g.client.refused
	}
	if g.failures > 0 {
		at := g.patient()
		if urgent {
			at = g.ended.Add(probeEvery)
		}
		if wait := at.Sub(now); wait > 0 {
			return wait, g.failure()
		}
	}
	return 0, nil
}

// patient is when a call may be made that nobody waits for, after the endpoint
// has failed.
func (g *gate) patient() time.Time {
	if g.breaker.State() == BreakerClosed {
		return g.next
	}
	return later(g.next, g.ended.Add(g.openFor))
}

// clientProbe is when a call for the key may find out whether the client is
// taken again; zero: it is taken. Another key's response tells more than the
// same one once more, and so another key goes first.
func (g *gate) clientProbe(now time.Time, k Key) time.Time {
	c := &g.client
	if c.refused == nil {
		return time.Time{}
	}
	_, refused := c.suspects[k]
	switch {
	case refused:
		return c.next.Add(min(c.next.Sub(g.ended)/2, 2*time.Second))
	case !c.certain && len(c.suspects) == 1:
		return g.ended // one more key decides whether it is the client
	}
	return c.next
}

// moves reports whether the queue moves though calls are held back: the endpoint
// throttles, and gave a token to somebody just now.
func (g *gate) moves(now time.Time) bool {
	return !g.slowed.IsZero() && g.failures == 0 && g.client.refused == nil && now.Sub(g.client.gotToken) < queueWait
}

// failure is the endpoint's last failure, for those who are not let through.
func (g *gate) failure() error {
	if g.failed != nil {
		return g.failed
	}
	return errThrottled
}

var errThrottled = fmt.Errorf("the token endpoint asked for fewer calls: %w", ErrUnavailable)

// queueMoves is moves, now.
func (g *gate) queueMoves() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.moves(time.Now())
}

// enter waits for the turn of a call for the key, and reports whether it had to
// wait. The error is why there is no turn. Each enter without an error is
// followed by one leave.
func (g *gate) enter(ctx context.Context, k Key, urgent bool) (waited bool, err error) {
	g.mu.Lock()
	now := time.Now()
	if wait, err := g.closed(now, k, urgent); err != nil {
		g.mu.Unlock()
		return false, &delayedError{err, wait}
	}
	t := &turn{may: make(chan struct{})}
	if urgent {
		g.urgent = append(g.urgent, t)
	} else {
		g.others = append(g.others, t)
	}
	g.serve(now)
	waited = !t.done
	g.mu.Unlock()
	if !waited {
		return false, t.err
	}
	timeout := time.NewTimer(queueWait)
	defer timeout.Stop()
	select {
	case <-t.may:
		return true, t.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = &delayedError{errThrottled, probeEvery}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.done { // it got its turn meanwhile
		return true, t.err
	}
	t.done = true
	return true, err
}

// serve lets through whose turn it is. The caller holds g.mu.
func (g *gate) serve(now time.Time) {
	for g.calls < g.limit() {
		t := g.first()
		if t == nil {
			return
		}
		at := later(g.began.Add(g.spacing(now)), g.hold)
		if wait := at.Sub(now); wait > 0 {
			g.wake(wait)
			return
		}
		g.pop()
		t.done = true
		g.calls++
		g.began = now
		close(t.may)
	}
}

// limit is how many calls may be under way.
func (g *gate) limit() int {
	if g.failures > 0 || g.client.refused != nil {
		return 1
	}
	return g.window
}

// spacing is the time between the beginnings of two calls: none, or what the
// endpoint was seen to take when it throttled.
func (g *gate) spacing(now time.Time) time.Duration {
	switch {
	case g.slowed.IsZero():
	case now.Sub(g.slowed) > forgetSlow:
		g.gap, g.slowed, g.learn = 0, time.Time{}, false
	case g.learn && !now.Before(g.hold):
		g.learn = false
		g.gap = g.learned()
	}
	return g.gap
}

// learned is the spacing for a tenth fewer calls than brought tokens in the
// second around the throttling.
func (g *gate) learned() time.Duration {
	rate := 0
	for _, at := range g.recent {
		if g.slowed.Sub(at) <= time.Second {
			rate++
		}
	}
	switch {
	case rate > 0:
		return time.Second * 11 / time.Duration(10*rate)
	case g.gap > 0:
		return min(2*g.gap, queueWait)
	}
	return time.Second
}

// first is who is next; nil: nobody waits.
func (g *gate) first() *turn {
	for _, queue := range []*[]*turn{&g.urgent, &g.others} {
		for len(*queue) > 0 && (*queue)[0].done {
			*queue = (*queue)[1:]
		}
		if len(*queue) > 0 {
			return (*queue)[0]
		}
	}
	return nil
}

// pop removes the first.
func (g *gate) pop() {
	if len(g.urgent) > 0 {
		g.urgent = g.urgent[1:]
		return
	}
	g.others = g.others[1:]
}

// wake serves again after a while.
func (g *gate) wake(after time.Duration) {
	serve := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.serve(time.Now())
	}
	if g.timer == nil {
		g.timer = time.AfterFunc(after, serve)
		return
	}
	g.timer.Reset(after)
}

// close ends the gate's timer, and everybody's wait.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
	g.dismiss(fmt.Errorf("%w: %w", ErrUnavailable, ErrClosed))
}

// dismiss ends the wait of all who stand in the queue. The caller holds g.mu.
func (g *gate) dismiss(err error) {
	for t := g.first(); t != nil; t = g.first() {
		g.pop()
		t.done, t.err = true, err
		close(t.may)
	}
}

// push is enter for a call that nothing holds back: a person's code is worth
// a call in any state.
func (g *gate) push() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	g.began = time.Now()
}

// leave ends what enter or push began.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls--
	g.serve(time.Now())
}

// evidence fills in what the gate knows for judging a failure.
func (g *gate) evidence(ev evidence) evidence {
	g.mu.Lock()
	defer g.mu.Unlock()
	ev.works = !g.client.gotToken.IsZero()
	ev.grantWorked = g.client.grantWorked
	ev.bareStays = g.bare.stay(time.Now())
	return ev
}

// succeeded notes a call that brought a token.
func (g *gate) succeeded(call callKind, took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.client.doubt.is { // it was the client, after all, or what the settings asked for
		g.client.pardonFrom, g.client.pardonTo = g.client.gotToken, now
	}
	g.client.gotToken, g.lastToken = now, now
	g.client.grantWorked = g.client.grantWorked || call == callGrant
	g.answered(now)
	g.recent = append(g.recent, now)
	if len(g.recent) > 2*startWindow {
		g.recent = append(g.recent[:0], g.recent[startWindow:]...)
	}
	if now.Sub(g.slowed) > fasterAfter {
		g.gap = g.gap * 49 / 50
	}
	if g.window < startWindow || (took >= slowCall && g.window < maxWindow) {
		g.window++
	}
}

// answered notes that the endpoint works and takes the client. The caller holds
// g.mu.
func (g *gate) answered(now time.Time) {
	g.failures, g.failed, g.slows, g.worked = 0, nil, 0, now
	g.bare = bareRefusals{}
	g.client.refused, g.client.certain, g.client.probes = nil, false, 0
	g.client.doubt = doubt{}
	clear(g.client.suspects)
}

// refused notes a call that failed, when it began, and whose fault that is. It
// returns the fault in the light of what other keys were told.
func (g *gate) refused(k Key, began time.Time, err error, j judgement) Fault {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	// What was under way together with a call that failed says the same once more.
	again := began.Before(g.ended)
	g.ended = now
	if !isBare(err) {
		g.bare = bareRefusals{}
	} else if g.bare.n++; g.bare.n == 1 {
		g.bare.since = now
	}
	certain := j.suspects == 0
	if !certain && j.fault != FaultEndpoint && g.suspect(k, err, j.suspects) {
		if j.fault == FaultClient || statusOf(err) == 401 {
			j.fault, certain = FaultClient, true
		} else if d := &g.client.doubt; !d.is {
			*d = doubt{is: true, next: now.Add(probeAfter(0, random()))}
		}
	}
	judged := &Failure{Fault: j.fault, Err: err}
	switch j.fault {
	case FaultEndpoint:
		g.endpointFailed(now, judged, again)
	case FaultClient:
		g.clientRefused(now, judged, certain, again)
	case FaultConsent:
		g.answered(now) // the client was taken, or it would not have got so far
	case FaultSuspected, FaultUser:
		g.failures, g.failed, g.worked = 0, nil, now
		if g.client.refused != nil { // this probe has not cleared it
			g.clientRefused(now, g.client.refused, g.client.certain, again)
		}
	}
	return j.fault
}

// endpointFailed begins or goes on with the back-off.
func (g *gate) endpointFailed(now time.Time, err error, again bool) {
	asked := RetryAfter(err)
	if throttled(err) {
		g.throttled(now, asked, err)
		return
	}
	if g.failures == 0 {
		g.since = now
	}
	if g.failures == 0 || !again {
		g.failures++
	}
	g.failed = err
	g.window = 1
	g.next = now.Add(retryAfter(asked, g.failures, g.retryMax, random()))
	if asked > 0 {
		g.hold = g.next
	}
	g.dismiss(&delayedError{err, probeEvery})
}

// throttled slows the calls down to what the endpoint has just been seen to
// take.
func (g *gate) throttled(now time.Time, asked time.Duration, err error) {
	if now.Sub(g.slowed) >= probeEvery || g.slows == 0 {
		g.slows++
	}
	g.hold = later(g.hold, now.Add(retryAfter(asked, g.slows, g.retryMax, random())))
	if now.Sub(g.slowed) < probeEvery {
		return // calls that were under way together
	}
	g.slowed, g.learn = now, true
	g.window = 1
	if !g.moves(now) || g.hold.Sub(now) > queueWait {
		g.dismiss(&delayedError{err, g.hold.Sub(now)})
	}
}

// suspect counts the keys that were refused alike, and reports whether they
// are so many that it is the client who is refused.
func (g *gate) suspect(k Key, err error, enough int) bool {
	if g.client.suspects == nil {
		g.client.suspects = make(map[Key]string)
	}
	words := wordsOf(err)
	if len(g.client.suspects) < 2*suspectsOther {
		g.client.suspects[k] = words
	}
	alike := 0
	for _, other := range g.client.suspects {
		if other == words {
			alike++
		}
	}
	return alike >= enough
}

// wordsOf is what an endpoint said, for comparing: not what is shown of it.
func wordsOf(err error) string {
	var code string
	var ee *tokenendpoint.Error
	if errors.As(err, &ee) {
		code = string(ee.Code)
	}
	return fmt.Sprint(statusOf(err), code)
}

// clientRefused begins or goes on with the refusal of the client: a probe after
// 5 s, 15 s, and then each minute.
func (g *gate) clientRefused(now time.Time, err error, certain, again bool) {
	c := &g.client
	if c.refused == nil {
		c.since, c.probes = now, 0
		c.pardonFrom = c.gotToken
	}
	c.certain = certain || (c.refused != nil && c.certain)
	c.refused, c.pardonTo = err, now
	if c.probes == 0 || !again {
		c.next = now.Add(probeAfter(c.probes, random()))
		c.probes++
	}
	g.failures, g.failed = 0, nil
	g.window = 1
	g.dismiss(&delayedError{err, c.next.Sub(now)})
}

// pardoned reports whether a suspicion that arose at the moment has turned out
// to be the client's fault.
func (g *gate) pardoned(at time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.client.pardonTo.IsZero() && !at.Before(g.client.pardonFrom) && !at.After(g.client.pardonTo)
}

// mayTryRefused reports whether a key that was refused may be tried before its
// time, to find out whether it is the client who is meant.
func (g *gate) mayTryRefused(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.client.doubt.due(now)
}

// tryRefused is mayTryRefused for the one who does.
func (g *gate) tryRefused(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := &g.client.doubt
	if !d.due(now) {
		return false
	}
	d.probes++
	d.next = now.Add(probeAfter(d.probes, random()))
	return true
}

// workedSince reports whether the endpoint has done its work since.
func (g *gate) workedSince(at time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.worked.After(at)
}

// reconsider lets the next call through, but for what the endpoint asked to wait
// for: somebody says that things have changed. newClient: the client's
// credentials have, so that what worked before says nothing.
func (g *gate) reconsider(newClient bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.client.refused != nil {
		g.client.next, g.client.probes, g.client.pardonTo = now, 0, now
		clear(g.client.suspects)
	}
	if newClient {
		g.client.gotToken, g.client.grantWorked = time.Time{}, false
	}
	g.next = now
	g.bare = bareRefusals{}
	g.serve(now)
}

// wakes returns when calls that nobody waits for may go on; zero: now.
func (g *gate) wakes() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.hold
	if g.client.refused != nil {
		at = later(at, g.client.next)
	}
	if g.failures > 0 {
		at = later(at, g.patient())
	}
	return at
}

// issued returns when a call last brought a token; zero: none has.
func (g *gate) issued() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lastToken
}

// trouble returns what is wrong with the endpoint or the client now.
func (g *gate) trouble() Trouble {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.client.refused != nil:
		return Trouble{Fault: FaultClient, Since: g.client.since, Next: g.client.next, Err: g.client.refused}
	case g.failures > 0:
		return Trouble{Fault: FaultEndpoint, Since: g.since, Next: later(g.patient(), g.hold), Err: g.failed}
	case g.hold.After(time.Now()):
		return Trouble{Fault: FaultEndpoint, Since: g.slowed, Next: g.hold, Err: errThrottled}
	}
	return Trouble{}
}

// state is the breaker's, as one sees it from outside: while nobody tries, an
// endpoint that failed is left alone.
func (g *gate) state() BreakerState {
	state := g.breaker.State()
	g.mu.Lock()
	defer g.mu.Unlock()
	if state == BreakerHalfOpen && g.calls == 0 {
		return BreakerOpen
	}
	return state
}

// later returns the later of two moments.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func throttled(err error) bool {
	ee := endpointError(err)
	return ee != nil && ee.Class == tokenendpoint.Throttled
}

// isBare reports whether the endpoint said 401, and nothing with it.
func isBare(err error) bool {
	ee := endpointError(err)
	return ee != nil && ee.Status == 401 && ee.Class == tokenendpoint.Transient
}

func statusOf(err error) int {
	if ee := endpointError(err); ee != nil {
		return ee.Status
	}
	return 0
}
