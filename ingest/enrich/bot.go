package enrich

import "strings"

// botWords are parts of user agents, in lower case, that only programs have.
var botWords = []string{
	"://", "@", "www.", // where to complain
	"bot", "crawl", "spider", "preview", "fetch", "feed", "proxy", "headless", "phantomjs", "favicon", "validator",
	"checker", "monitor", "subscriber", "oldreader", "archiver", "library", "python", "curl", "wget", "agent", "embed", "ezooms", "via docs",
}

// isBot reports whether a user agent is of a program rather than of a person's browser
// or app, which names its system.
func isBot(text, system string) bool {
	lower := strings.ReplaceAll(strings.ToLower(text), "cubot", "") // a make of phones
	for _, word := range botWords {
		if strings.Contains(lower, word) {
			return true
		}
	}
	product, rest, _ := strings.Cut(lower, " ")
	if strings.HasPrefix(product, "mozilla/") {
		return rest == "" || rest == "(compatible;)"
	}
	if strings.HasPrefix(product, "opera/") {
		return false
	}
	for _, browser := range []string{"links", "elinks", "lynx/", "w3m/"} { // in terminals
		if strings.HasPrefix(product, browser) {
			return false
		}
	}
	return system == "" && !isPhone(text)
}
