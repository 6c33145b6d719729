//go:build race

package main

// queriesDefault is fewer with the race detector, which takes ten times as long: "make
// test-model" runs all of them without it.
const queriesDefault = 1000

const raceDetector = true
