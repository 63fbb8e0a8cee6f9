//go:build redis

package main

import "testing"

func TestFault44RotationsRedis(t *testing.T) {
	short(t, "rotations", "-rotations", "50", "-store", "redis")
}

func TestFault29RedisStopped(t *testing.T)     { redisShort(t, "stopped") }
func TestFault30RedisPaused(t *testing.T)      { redisShort(t, "paused") }
func TestFault30RedisSlow(t *testing.T)        { redisShort(t, "slow") }
func TestFault31RedisFailsOver(t *testing.T)   { redisShort(t, "failover") }
func TestFault45RedisSplitsInTwo(t *testing.T) { redisShort(t, "split") }

func redisShort(t *testing.T, fault string) {
	short(t, "redis", "-only", fault, "-replicas", "6", "-outage", "4s", "-latency", "1s", "-lifetime", "12s", "-ahead", "79%")
}
