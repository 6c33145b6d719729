package ingest

import "bytes"

// checkDepth rejects JSON that has more than max objects and arrays inside each other,
// before a tree is made of it. What scan takes never has more than the least that a
// tenant may allow.
func checkDepth(raw []byte, max int) *rejection {
	// Most events do not have that many in all, and counting bytes takes a fraction of
	// looking for the ends of texts.
	if bytes.Count(raw, []byte{'{'})+bytes.Count(raw, []byte{'['}) <= max {
		return nil
	}
	if depthOver(raw, max) {
		return reject(reasonTooDeep, "the event has more than %d objects and arrays inside each other (limits.json_depth)", max)
	}
	return nil
}

// depthOver reports whether more than max brackets are open anywhere in raw.
func depthOver(raw []byte, max int) bool {
	depth, inText := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			if depth++; depth > max {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
