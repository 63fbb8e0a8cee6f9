package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tc := range []struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		{nil, 99, 0},
		{[]time.Duration{7}, 50, 7},
		{[]time.Duration{7}, 99, 7},
		{[]time.Duration{1, 2, 3, 4}, 50, 2},
		{[]time.Duration{1, 2, 3, 4}, 99, 4},
		{hundred, 0, 1},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 99.5, 100},
		{hundred, 100, 100},
	} {
		if got := percentile(tc.values, tc.p); got != tc.want {
			t.Errorf("percentile(%v, %g) = %d, want %d", tc.values, tc.p, got, tc.want)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median of three = %g", got)
	}
	if got := median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median of four = %g", got)
	}
}

// stalling answers after 1 ms, but for a second in which it answers nothing:
// what comes in then is answered when it is over.
type stalling struct {
	from, until time.Time
}

func (s stalling) do() (int, error) {
	if now := time.Now(); !now.Before(s.from) && now.Before(s.until) {
		time.Sleep(s.until.Sub(now))
	}
	time.Sleep(time.Millisecond)
	return http.StatusOK, nil
}

func (stalling) close() {}

// The open loop must go on sending while the proxy stalls, and charge the
// stall to every request that was due in it.
func TestOpenLoopCountsFromWhenRequestsWereDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var opened atomic.Int32
		load := openLoop{rate: 100, length: 4 * time.Second, sleep: time.Sleep, client: func() doer {
			opened.Add(1)
			return stalling{from: start.Add(time.Second), until: start.Add(2 * time.Second)}
		}}
		samples := load.run(t.Context())
		if len(samples) != 400 {
			t.Fatalf("%d requests, want 400", len(samples))
		}
		for i, s := range samples {
			want := time.Millisecond
			if i >= 100 && i < 200 {
				want += time.Duration(200-i) * 10 * time.Millisecond
			}
			if s.latency != want || s.late != 0 || s.failed() {
				t.Fatalf("request %d, due at %v: %+v, want latency %v", i, s.due, s, want)
			}
		}
		sum := summarize(samples)
		if sum.p50 != time.Millisecond || sum.p99 != 961*time.Millisecond || sum.worst != 1001*time.Millisecond {
			t.Errorf("p50 %v, p99 %v, worst %v", sum.p50, sum.p99, sum.worst)
		}
		if n := opened.Load(); n != 101 {
			t.Errorf("%d connections, want one for each of the 100 that wait and the next", n)
		}
	})
}

// A generator that cannot keep up must not look like a fast proxy.
func TestOpenLoopChargesItsOwnLateness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := openLoop{
			rate: 100, length: time.Second, client: func() doer { return stalling{} },
			sleep: func(d time.Duration) { time.Sleep(d + 5*time.Millisecond) },
		}
		samples := load.run(t.Context())
		for i, s := range samples[1:] {
			if s.late != 5*time.Millisecond || s.latency != 6*time.Millisecond {
				t.Fatalf("request %d: %+v, want 5ms late and 6ms in all", i+1, s)
			}
		}
	})
}

func TestOpenLoopJitterStaysInItsInterval(t *testing.T) {
	load := openLoop{rate: 1000, seed: 7}
	for i := range 1000 {
		if due, from := load.due(i), time.Duration(i)*time.Millisecond; due < from || due >= from+time.Millisecond {
			t.Fatalf("request %d is due at %v", i, due)
		}
	}
}

func TestClosedLoopCountsEachTargetAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 995*time.Millisecond)
		defer cancel()
		load := newClosedLoop(8, []func() doer{
			func() doer { return answering{"ok"} }, func() doer { return answering{"bad"} },
		}, 1)
		load.measuring.Store(true)
		load.run(ctx)
		ok, bad := &load.counts[0], &load.counts[1]
		if n := ok.finished.Load(); n != 8*100 || ok.failed.Load() != 0 {
			t.Errorf("ok: %d finished, %d failed", n, ok.failed.Load())
		}
		if n := bad.finished.Load(); n != 8*50 || bad.failed.Load() != n {
			t.Errorf("bad: %d finished, %d failed", n, bad.failed.Load())
		}
		if sum := summarize(bad.samples); sum.p50 != 20*time.Millisecond || sum.statuses[502] != 400 {
			t.Errorf("bad: %+v", sum)
		}
	})
}

// answering takes 10 ms when all is well and 20 ms when it is not.
type answering struct{ addr string }

func (a answering) do() (int, error) {
	time.Sleep(10 * time.Millisecond)
	if a.addr == "ok" {
		return http.StatusOK, nil
	}
	time.Sleep(10 * time.Millisecond)
	return http.StatusBadGateway, nil
}

func (answering) close() {}

// The kernel's clock of this process must agree with what the process can
// measure of itself: work that it is known to have done.
func TestCPUTime(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	used := before
	for n := 0; used-before < 20*time.Millisecond; n++ {
		if n == 100_000_000 {
			t.Fatal("the CPU time of a busy process does not grow")
		}
		if n%100_000 == 0 {
			if used, err = cpuTime(os.Getpid()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := cpuTime(1 << 23); err == nil {
		t.Error("a process that does not exist has a CPU time")
	}
}

func TestClientKeepsItsConnection(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("an app has no credential")
		}
		_, _ = w.Write(apiBody)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	c := newClient(srv.Listener.Addr().String())
	for range 5 {
		if status, err := c.do(); status != http.StatusOK || err != nil {
			t.Fatalf("%d, %v", status, err)
		}
	}
	c.close()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 5 requests", n)
	}
	srv.Close()
	if status, err := c.do(); status != 0 || err == nil {
		t.Errorf("a closed server answered %d", status)
	}
}
