package bearer

// Observer is told what becomes of requests, for metrics. It must not block.
type Observer interface {
	// Request is called once for each request, when its answer has begun or an
	// error is returned.
	Request(Result)
	// Replay is called once for each request whose token the API refused.
	Replay(Replay)
}

// Result is what became of a request, as a metric's label.
type Result string

// The results.
const (
	ResultOK      Result = "ok"       // answered, the token accepted
	ResultRefused Result = "refused"  // the API refused the token, and the answer was passed on
	ResultError   Result = "error"    // no answer from the API, or the caller went before there was a token
	ResultNotSent Result = "not_sent" // an [Error] was returned
)

// Replay is what came of a refused token, as a metric's label.
type Replay string

// The replays.
const (
	ReplayOK          Replay = "ok"           // sent again with another token, and accepted
	ReplaySettled     Replay = "settled"      // sent again with the same token, which the API had come to know
	ReplayPredecessor Replay = "predecessor"  // sent again with the token before, which the API still takes
	ReplayRefused     Replay = "refused"      // sent again with another token, and refused again
	ReplayUnsettled   Replay = "unsettled"    // the token is new, and the API may not know it yet
	ReplayRequest     Replay = "request"      // it is about the request: the token works for others
	ReplayError       Replay = "error"        // sent again, and no answer came
	ReplayNoToken     Replay = "no_token"     // no other token to be had
	ReplayBodyGone    Replay = "body_gone"    // the body cannot be sent again
	ReplayNeedPerson  Replay = "needs_person" // only a person can replace the token
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
