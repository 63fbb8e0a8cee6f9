#!/usr/bin/env bash
# sony/gobreaker v2.4.0: one probe that never reports closes the door for ever.
#
# In its two-step form, Allow lets a call through and the caller reports its outcome with done. When the breaker is half
# open it lets MaxRequests calls through. If the one that got through never reports, because its goroutine waits for a peer
# that never answers, there is no time limit: the breaker stays half open, and refuses every later call with
# ErrTooManyRequests, however long ago the probe began. Timeout bounds the open state alone, and Interval the closed one.
#
# Seen, with a Timeout of 20 ms and a probe that was let through 2 s ago:
# "half-open after 2 s, and refuses: too many requests".
#
# Needs Go. It fails if the behaviour is another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >go.mod <<'MOD'
module probe

go 1.24

require github.com/sony/gobreaker/v2 v2.4.0
MOD
cat >main.go <<'GO'
package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"
)

func main() {
	b := gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     20 * time.Millisecond,
		Interval:    20 * time.Millisecond,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 1 },
	})
	done, err := b.Allow()
	if err != nil {
		panic(err)
	}
	done(errors.New("failed"))
	time.Sleep(50 * time.Millisecond)
	if _, err := b.Allow(); err != nil { // the probe, which never reports
		panic(err)
	}
	time.Sleep(2 * time.Second)
	_, err = b.Allow()
	fmt.Printf("%v after 2 s, and refuses: %v\n", b.State(), err)
}
GO
go mod tidy >/dev/null 2>&1
seen=$(go run .)
echo "$seen"
[ "$seen" = "half-open after 2 s, and refuses: too many requests" ] || { echo "it is another now"; exit 1; }
