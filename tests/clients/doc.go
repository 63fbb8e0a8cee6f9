// Package clients has tests that drive real clients through bearer_intercept, with the variables that `caddy token run`
// sets. They want the build tag clients, and the clients: .ci/run says which packages have them.
package clients
