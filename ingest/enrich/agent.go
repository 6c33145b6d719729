package enrich

import (
	"strings"

	"github.com/mileusna/useragent"
)

// Agent is what a user agent tells, texts that are not to be changed. A field is empty
// where it does not.
type Agent struct {
	Browser []byte // without a version: "Chrome", "Internet Explorer"
	OS      []byte // without a version: "Windows", "macOS", "Android"
	Device  []byte // "desktop", "mobile" or "tablet"
	Bot     bool   // a program rather than a person
}

// browsers are names for what the parser tells apart and people who look at statistics do
// not: forms of one browser, and builds of it under another name. "": no browser.
var browsers = map[string]string{
	"Trident": "Internet Explorer", "Ubuntu Chromium": "Chromium", "Headless Chrome": "Chrome", "Iron": "Chrome", "CoolNovo": "Chrome",
	"Android browser": "Android Browser", "iPhone": "Safari", "iPad": "Safari", "MobileSafari": "Safari", "Opera Mini": "Opera", "Opera Touch": "Opera",
	"Gecko": "Firefox", "Dalvik": "", "Windows": "", "X11": "", "Linux": "",
}

// namesakes are browsers that call themselves another one as well: what only they have,
// and their name. The parser sees the other.
var namesakes = []struct{ part, name string }{
	{"GSA/", "Google"}, {"Silk/", "Amazon Silk"}, {"UCBrowser/", "UC Browser"}, {"SeaMonkey/", "SeaMonkey"}, {"PaleMoon/", "Pale Moon"},
	{"Epiphany/", "Epiphany"}, {"MAXTHON", "Maxthon"}, {"MetaSr", "Sogou Explorer"}, {") Opera ", "Opera"}, {"rekonq/", "Rekonq"},
	{"Midori/", "Midori"}, {"conkeror/", "Conkeror"}, {"Thunderbird/", "Thunderbird"}, {" chrome/", "Chrome"},
}

// systems are parts of user agents by which the system is known where the parser knows
// none; the first that is there counts.
var systems = []struct{ part, name string }{
	{"Windows Phone", "Windows Phone"}, {"Windows Mobile", "Windows Mobile"}, {"Windows CE", "Windows Mobile"}, {"Android", "Android"},
	{"iPhone", "iOS"}, {"iPad", "iOS"}, {"iPod", "iOS"}, {"Darwin/", "iOS"}, {"Windows", "Windows"}, {"Macintosh", "macOS"}, {"CrOS", "ChromeOS"},
	{"FreeBSD", "FreeBSD"}, {"OpenBSD", "OpenBSD"}, {"NetBSD", "NetBSD"}, {"SunOS", "Solaris"}, {"Linux", "Linux"},
}

func newAgent(text string) Agent {
	c := useragent.Parse(text)
	system := c.OS
	for i := 0; system == "" && i < len(systems); i++ {
		if strings.Contains(text, systems[i].part) {
			system = systems[i].name
		}
	}
	browser := browserOf(text, c.Name, system)
	if c.Bot || isBot(text, system) {
		return Agent{Browser: []byte(browser), OS: []byte(system), Bot: true}
	}
	return Agent{Browser: []byte(browser), OS: []byte(system), Device: []byte(deviceOf(text, system))}
}

func browserOf(text, parsed, system string) string {
	for _, n := range namesakes {
		if strings.Contains(text, n.part) {
			return n.name
		}
	}
	if name, ok := browsers[parsed]; ok {
		return name
	}
	if parsed == "Safari" && system == "Android" {
		return "Android Browser"
	}
	return parsed
}

// deviceOf is the kind of device. Tablets of Android are those that do not say Mobile.
func deviceOf(text, system string) string {
	switch system {
	case "Windows", "macOS", "Linux", "ChromeOS", "FreeBSD", "OpenBSD", "NetBSD", "Solaris":
		if strings.Contains(text, "Mobile") {
			return "mobile"
		}
		return "desktop"
	case "iOS":
		if strings.Contains(text, "iPad") {
			return "tablet"
		}
		return "mobile"
	case "Android":
		if strings.Contains(text, "Mobile") || strings.HasPrefix(text, "Dalvik/") {
			return "mobile"
		}
		return "tablet"
	case "":
		if isPhone(text) {
			return "mobile"
		}
		return ""
	}
	return "mobile" // what else there is are systems of phones
}

// isPhone reports whether the user agent is of a phone that names no system.
func isPhone(text string) bool {
	return strings.Contains(text, "MIDP") || strings.Contains(text, "UP.Browser") || strings.Contains(text, "J2ME")
}
