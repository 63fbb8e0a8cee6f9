package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// openLoop sends requests at a fixed rate whether or not earlier ones have
// been answered, as apps do, and counts each one's latency from the moment it
// was due. A load of clients that wait for their answers sends nothing while
// the proxy stalls, and so leaves out just the requests that suffer.
type openLoop struct {
	rate   float64 // requests per second
	length time.Duration
	client func() doer

	// seed moves each request about within its own interval, so that two
	// loads at one rate do not keep in step. 0 keeps them evenly spaced.
	seed uint64

	sleep func(time.Duration) // preciseSleep when nil
}

// run sends the load and waits for its last answer.
func (o openLoop) run(ctx context.Context) []sample {
	var (
		n       = int(o.rate * o.length.Seconds())
		samples = make([]sample, n)
		jobs    = make(chan *sample) // to whichever connection is idle
		wg      sync.WaitGroup
		start   = time.Now()
	)
	serve := func(s *sample) {
		c := o.client()
		defer c.close()
		for ; s != nil; s = <-jobs {
			s.status, _ = c.do()
			s.latency = time.Since(start) - s.due
			wg.Done()
		}
	}
	sent := 0
	for ; sent < n && ctx.Err() == nil; sent++ {
		s := &samples[sent]
		s.due = o.due(sent)
		o.wait(s.due - time.Since(start))
		s.late = time.Since(start) - s.due
		wg.Add(1)
		select {
		case jobs <- s:
		default: // every connection is busy: this request gets a new one
			go serve(s)
		}
	}
	wg.Wait()
	close(jobs)
	return samples[:sent]
}

func (o openLoop) due(i int) time.Duration {
	at := float64(i)
	if o.seed != 0 {
		at += rand.New(rand.NewPCG(o.seed, uint64(i))).Float64()
	}
	return time.Duration(at / o.rate * float64(time.Second))
}

func (o openLoop) wait(d time.Duration) {
	switch {
	case d <= 0:
	case o.sleep != nil:
		o.sleep(d)
	default:
		preciseSleep(d)
	}
}
