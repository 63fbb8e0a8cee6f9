package tokensource

import "time"

// EstimatedMemory is what the keys in memory are taken to take, in bytes.
func (s *Source) EstimatedMemory() int { return int(s.table.bytes.Load()) }

// Remembered counts the keys that the source holds in memory, wherever it does.
func (s *Source) Remembered() int {
	n := 0
	s.each(func(*entry) { n++ })
	s.finished.mu.Lock()
	defer s.finished.mu.Unlock()
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	return n + len(s.finished.keys) + len(s.gate.client.suspects) + len(s.gate.urgent) + len(s.gate.others)
}

// HoldsRefreshToken reports whether the key's refresh token is in memory.
func (s *Source) HoldsRefreshToken(k Key) bool {
	e, err := s.entry(k, time.Now())
	return err == nil && e.current() != nil && e.current().refresh.known()
}
