// Package auth says who makes a request, and what they may do.
//
// Files:
//   - permission.go: the permissions, and what a route needs
//   - subject.go: who asks, carried by the request's context
package auth
