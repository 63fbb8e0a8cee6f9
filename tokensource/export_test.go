package tokensource

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
