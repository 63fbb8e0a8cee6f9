package tokensource_test

import (
	"testing"

	"go.uber.org/goleak"
)

// A source owns goroutines: whatever a test leaves running fails them all.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
