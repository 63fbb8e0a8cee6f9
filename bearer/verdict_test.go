package bearer

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tokensource"
)

// refusedWith is the evidence of a first refusal, of a token that can be renewed
// and a request that can be sent again, changed.
func refusedWith(change func(e *evidence)) evidence {
	e := evidence{renewable: true, sendings: 1, patient: true, replayable: true}
	if change != nil {
		change(&e)
	}
	return e
}

// TestDecide is the table of whose fault a refusal is.
func TestDecide(t *testing.T) {
	const (
		fails   = tokensource.Fails
		neutral = tokensource.Neutral
	)
	pass := func(why Replay, v tokensource.Verdict) decision { return decision{why: why, verdict: v} }
	remembered := func(d decision) decision {
		d.remember = true
		return d
	}
	for name, c := range map[string]struct {
		known func(e *evidence)
		want  decision
	}{
		// the token was accepted before, and this is the first refusal
		"worked":                         {func(e *evidence) { e.worked, e.works = true, true }, decision{do: renew}},
		"worked, young":                  {func(e *evidence) { e.worked, e.works, e.young = true, true, true }, decision{do: renew}},
		"worked, others with hopeless":   {func(e *evidence) { e.worked, e.works, e.hopeless = true, true, true }, decision{do: renew}},
		"never used, had its time":       {nil, decision{do: renew}},
		"worked, a person's":             {func(e *evidence) { e.worked, e.works, e.renewable = true, true, false }, pass(ReplayNeedPerson, fails)},
		"had its time, a person's":       {func(e *evidence) { e.renewable = false }, pass(ReplayNeedPerson, fails)},
		"worked, cannot be sent again":   {func(e *evidence) { e.worked, e.works, e.replayable = true, true, false }, decision{do: renewOnly, why: ReplayBodyGone, verdict: neutral}},
		"person's, cannot be sent again": {func(e *evidence) { e.renewable, e.replayable = false, false }, pass(ReplayNeedPerson, fails)},

		// younger than settle, and never accepted
		"young":                     {func(e *evidence) { e.young = true }, decision{do: sendLater, wait: 300 * time.Millisecond}},
		"young, waited once":        {func(e *evidence) { e.young, e.waits, e.sendings, e.again = true, 1, 2, true }, decision{do: sendLater, wait: time.Second}},
		"young, waited twice":       {func(e *evidence) { e.young, e.waits, e.sendings, e.again = true, 2, 3, true }, decision{do: sendLater, wait: 2 * time.Second}},
		"young, waited enough":      {func(e *evidence) { e.young, e.waits, e.sendings, e.again = true, 3, 4, true }, decision{do: renew}},
		"young, no time":            {func(e *evidence) { e.young, e.patient = true, false }, decision{do: renew}},
		"young, waited, no renewal": {func(e *evidence) { e.young, e.waits, e.sendings, e.renewable = true, 3, 4, false }, pass(ReplayUnsettled, neutral)},
		"young, the second of two":  {func(e *evidence) { e.young, e.waits, e.sendings, e.hasty = true, 3, 4, true }, pass(ReplayUnsettled, neutral)},
		"young, a person's":         {func(e *evidence) { e.young, e.renewable = true, false }, decision{do: sendLater, wait: 300 * time.Millisecond}},
		"young, sent too often":     {func(e *evidence) { e.young, e.sendings, e.waits = true, 5, 2 }, pass(ReplayUnsettled, neutral)},
		"young, predecessor":        {func(e *evidence) { e.young, e.predecessor = true, true }, decision{do: sendPredecessor}},
		"young, predecessor, late":  {func(e *evidence) { e.young, e.predecessor, e.sendings = true, true, 5 }, pass(ReplayUnsettled, neutral)},
		"young, not again":          {func(e *evidence) { e.young, e.replayable = true, false }, pass(ReplayBodyGone, neutral)},
		"predecessor, not again":    {func(e *evidence) { e.young, e.predecessor, e.replayable = true, true, false }, pass(ReplayBodyGone, neutral)},
		"grew old in its waits":     {func(e *evidence) { e.waits, e.sendings, e.again = 3, 4, true }, decision{do: renew}},
		"young, hopeless":           {func(e *evidence) { e.young, e.hopeless = true, true }, decision{do: sendLater, wait: 300 * time.Millisecond}},
		"young, hopeless, the end":  {func(e *evidence) { e.young, e.hopeless, e.waits, e.sendings = true, true, 3, 4 }, pass(ReplayRefused, fails)},
		"became known meanwhile":    {func(e *evidence) { e.young, e.works = true, true }, decision{do: sendAgain}},
		"became known, old by now":  {func(e *evidence) { e.works = true }, decision{do: sendAgain}},
		"became known, not again":   {func(e *evidence) { e.works, e.replayable = true, false }, pass(ReplayBodyGone, neutral)},
		"known, and refused still":  {func(e *evidence) { e.worked, e.works, e.young, e.again = true, true, true, true }, remembered(pass(ReplayRequest, neutral))},
		"known, when all was sent":  {func(e *evidence) { e.works, e.sendings, e.renewed = true, 5, true }, pass(ReplayUnsettled, neutral)},
		"renewed, young":            {func(e *evidence) { e.renewed, e.young, e.sendings = true, true, 2 }, decision{do: sendLater, wait: 300 * time.Millisecond}},
		"renewed, young, no time":   {func(e *evidence) { e.renewed, e.young, e.patient = true, true, false }, remembered(pass(ReplayUnsettled, neutral))},
		"renewed, young, not again": {func(e *evidence) { e.renewed, e.young, e.replayable = true, true, false }, pass(ReplayBodyGone, neutral)},

		// the renewed token is refused as well
		"renewed, others work with it":       {func(e *evidence) { e.worked, e.works, e.renewed, e.sendings = true, true, true, 2 }, remembered(pass(ReplayRequest, neutral))},
		"renewed, young, others work":        {func(e *evidence) { e.worked, e.works, e.renewed, e.young = true, true, true, true }, remembered(pass(ReplayRequest, neutral))},
		"renewed, others, not again":         {func(e *evidence) { e.worked, e.works, e.renewed, e.replayable = true, true, true, false }, remembered(pass(ReplayRequest, neutral))},
		"renewed, nothing works":             {func(e *evidence) { e.renewed, e.sendings = true, 2 }, remembered(pass(ReplayRefused, fails))},
		"renewed, nothing works, hopeless":   {func(e *evidence) { e.renewed, e.young, e.hopeless, e.sendings = true, true, true, 5 }, remembered(pass(ReplayRefused, fails))},
		"renewed, nothing works, a person's": {func(e *evidence) { e.renewed, e.renewable = true, false }, remembered(pass(ReplayRefused, fails))},

		// what is remembered
		"no renewal helped it":                {func(e *evidence) { e.worked, e.works, e.uncured = true, true, true }, pass(ReplayRequest, neutral)},
		"nor another, and the token works":    {func(e *evidence) { e.worked, e.works, e.suspect = true, true, true }, pass(ReplayRequest, neutral)},
		"no renewal helped, a person's":       {func(e *evidence) { e.worked, e.works, e.uncured, e.renewable = true, true, true, false }, pass(ReplayRequest, neutral)},
		"no renewal helped, nothing works":    {func(e *evidence) { e.uncured, e.suspect = true, true }, decision{do: renew}},
		"no renewal helped, the token is new": {func(e *evidence) { e.uncured, e.young = true, true }, decision{do: sendLater, wait: 300 * time.Millisecond}},
	} {
		if got := decide(refusedWith(c.known)); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestDecideEnds: whatever is known, a request is sent five times at most, and
// what cannot be sent again is not.
func TestDecideEnds(t *testing.T) {
	for bits := range 1 << 13 {
		on := func(n int) bool { return bits&(1<<n) != 0 }
		for sendings := 1; sendings <= 6; sendings++ {
			for waits := range len(settleWaits) + 1 {
				d := decide(evidence{
					worked: on(0), works: on(0) || on(1), young: on(2), again: on(3), renewable: on(4), patient: on(5),
					renewed: on(6), replayable: on(7), predecessor: on(8), uncured: on(9), suspect: on(10), hopeless: on(11), hasty: on(12),
					sendings: sendings, waits: waits,
				})
				sends := slices.Contains([]action{sendAgain, sendLater, sendPredecessor, renew}, d.do)
				switch {
				case sends && (sendings >= 5 || !on(7)):
					t.Fatalf("bits %b, %d sendings: %+v", bits, sendings, d)
				case sends != (d.why == ""):
					t.Fatalf("bits %b: %+v has no reason, or one for nothing", bits, d)
				case d.verdict == tokensource.Fails && (on(2) && !on(11) && !on(0)):
					t.Fatalf("bits %b: %+v counts against a token that is new", bits, d)
				case d.do == renew && on(6):
					t.Fatalf("bits %b: %+v renews twice", bits, d)
				}
			}
		}
	}
}
