// Package importer sends access logs to a server in batches that can be sent
// again: an import that was interrupted is run again from its start, and the
// server counts only what it has not counted yet.
//
//	importer.go  the import: reads, sends several batches at a time, sums up
//	input.go     opening files, gzip and standard input; lines and offsets
//	batch.go     cutting lines into batches, their keys and their encoding
//	shift.go     moving a log to the present, by the same amount when resumed
//	progress.go  the progress bar and the messages that go past it
//	summary.go   what became of the lines
//
// Invariants:
//
//	P1: a batch's key is a function of the bytes of its lines, their offset in
//	    the uncompressed file, the batch size and whether times are shifted. So
//	    the same command gives the same keys, whatever happened to the last run.
//	    The file's name is no part of it: a copied or renamed log counts once.
//	P2: a batch is sent only if all its lines could be read: the end of a broken
//	    file never makes a batch that a repaired file would cut otherwise.
//	P3: every line read is accepted, duplicate, filtered, rejected, unparsed or
//	    unsent; the summary's numbers add up.
//	P4: the amount of a shift is on disk before the first batch is sent.
//	P5: a file's last batch may be shorter than the others. A file that grows
//	    gives that batch another key, and its lines would count twice; no key can
//	    prevent that, because the server knows batches and not their lines. So
//	    the import says where a file ends in one.
package importer
