//go:build race

package tokensource_test

// raceDetector makes some tests do less.
const raceDetector = true
