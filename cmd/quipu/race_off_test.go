//go:build !race

package main

const queriesDefault = 20_000

const raceDetector = false
