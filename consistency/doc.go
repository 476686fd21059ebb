// Package consistency says what can be promised, and at what price: modes,
// levels, the promise table that joins them, versions from a hybrid logical
// clock, and session tokens. It is pure: no goroutine, no I/O, and time comes in
// as an argument.
//
// Start reading at Table: it is the one source of every promise.
package consistency
