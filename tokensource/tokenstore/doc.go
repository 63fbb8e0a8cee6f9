// Package tokenstore keeps tokens where they outlive a process and can be
// shared by many.
//
// A [Store] is the smallest thing that can do that: a read and a
// compare-and-swap. A [Record] is what it holds for one key: the token, its
// generation, and the [Lease] of the process that is renewing it. A [Codec]
// writes records, sealed if there is an encryption key. A [Client] makes the
// store's calls and keeps account of whether it works.
//
// docs/decisions/0008-renewal-in-a-fleet.md says how processes that share a
// store renew one token without using a refresh token twice.
package tokenstore
