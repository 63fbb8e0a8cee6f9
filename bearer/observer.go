package bearer

// Observer is told the outcome of requests, for metrics. It must not block.
type Observer interface {
	// Request is called once for each request, when its response has begun or an
	// error is returned.
	Request(Result)
	// Replay is called once for each request whose token the API refused.
	Replay(Replay)
}

// Result is the outcome of a request, as a metric's label.
type Result string

// The results.
const (
	ResultOK      Result = "ok"       // the API responded and accepted the token
	ResultRefused Result = "refused"  // the API refused the token, and its refusal was passed on
	ResultError   Result = "error"    // the API did not respond, or the caller left before there was a token
	ResultNotSent Result = "not_sent" // an [Error] was returned
)

// Replay is the outcome of a request whose token was refused, as a metric's label.
type Replay string

// The replays.
const (
	ReplayOK          Replay = "ok"           // replayed with another token, and accepted
	ReplaySettled     Replay = "settled"      // replayed with the same token, which the API knew by then
	ReplayPredecessor Replay = "predecessor"  // replayed with the previous token, which the API still accepts
	ReplayRefused     Replay = "refused"      // replayed with another token, and refused again
	ReplayUnsettled   Replay = "unsettled"    // not cured: the token is new, and the API may not know it yet
	ReplayRequest     Replay = "request"      // not cured: the request is the cause, the token works for others
	ReplayError       Replay = "error"        // replayed, but no response came
	ReplayNoToken     Replay = "no_token"     // not replayed: no renewal was possible
	ReplayBodyGone    Replay = "body_gone"    // not replayed: the body cannot be sent again
	ReplayNeedPerson  Replay = "needs_person" // not replayed: only a person can replace the token
)

// Replays lists all of them.
func Replays() []Replay {
	return []Replay{
		ReplayOK, ReplaySettled, ReplayPredecessor, ReplayRefused, ReplayUnsettled, ReplayRequest,
		ReplayError, ReplayNoToken, ReplayBodyGone, ReplayNeedPerson,
	}
}

// nobody is the Observer of a transport without one.
type nobody struct{}

func (nobody) Request(Result) {}
func (nobody) Replay(Replay)  {}
