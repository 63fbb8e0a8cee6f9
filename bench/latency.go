package main

import (
	"math"
	"slices"
	"time"
)

// sample is one request of a load.
type sample struct {
	due     time.Duration // since the start of the load, when it was meant to be sent
	late    time.Duration // how late the generator itself was
	latency time.Duration // from when it was due until the whole answer was there
	status  int           // 0 when there was no answer
}

func (s sample) failed() bool { return s.status == 0 || s.status >= 400 }

// summary is what is printed of a load.
type summary struct {
	requests, failed int
	statuses         map[int]int
	p50, p99, worst  time.Duration
	late             time.Duration // p99 of the generator's own lateness
}

func summarize(samples []sample) summary {
	s := summary{requests: len(samples), statuses: map[int]int{}}
	latencies := make([]time.Duration, len(samples))
	late := make([]time.Duration, len(samples))
	for i, one := range samples {
		latencies[i], late[i] = one.latency, one.late
		if one.failed() {
			s.failed++
			s.statuses[one.status]++
		}
	}
	slices.Sort(latencies)
	slices.Sort(late)
	s.p50, s.p99, s.worst = percentile(latencies, 50), percentile(latencies, 99), percentile(latencies, 100)
	s.late = percentile(late, 99)
	return s
}

// percentile is the smallest of the sorted values that p percent of them do
// not exceed: always one that was measured, never one in between.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median of an even number of values is the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
