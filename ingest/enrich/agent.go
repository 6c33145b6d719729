package enrich

import (
	"strings"

	"github.com/ua-parser/uap-go/uaparser"
)

// Agent is what a user agent tells, texts that are not to be changed. A field is empty
// where it does not.
type Agent struct {
	Browser []byte // without a version: "Chrome", "Internet Explorer"
	OS      []byte // without a version: "Windows", "macOS", "Android"
	Device  []byte // "desktop", "mobile" or "tablet"
	Bot     bool   // a program rather than a person
}

// browsers are names for what ua-parser tells apart and people who look at statistics
// do not: forms of one browser, and builds of it under another name.
var browsers = map[string]string{
	"Chrome Mobile": "Chrome", "Chrome Mobile iOS": "Chrome", "Chrome Mobile WebView": "Chrome", "Iron": "Chrome",
	"Firefox Mobile": "Firefox", "Firefox iOS": "Firefox", "Iceweasel": "Firefox", "Bon Echo": "Firefox", "Minefield": "Firefox",
	"Mobile Safari": "Safari", "Mobile Safari UI/WKWebView": "Safari", "MobileSafari": "Safari",
	"IE": "Internet Explorer", "IE Mobile": "Internet Explorer", "AOL": "Internet Explorer", "Chrome Frame": "Internet Explorer",
	"Edge Mobile": "Edge", "Opera Mobile": "Opera", "Opera Tablet": "Opera",
	"Other": "", "Apple Mail": "Safari",
}

// systems are the same for operating systems.
var systems = map[string]string{
	"Mac OS X": "macOS", "Mac OS": "macOS", "Chrome OS": "ChromeOS", "Other": "",
	"Ubuntu": "Linux", "Debian": "Linux", "Fedora": "Linux", "Red Hat": "Linux", "CentOS": "Linux", "SUSE": "Linux",
	"Gentoo": "Linux", "Arch Linux": "Linux", "Linux Mint": "Linux", "Mageia": "Linux", "Slackware": "Linux", "Kubuntu": "Linux",
}

func newAgent(p *uaparser.Parser, text string) Agent {
	c := p.Parse(text)
	browser, system, device := c.UserAgent.Family, c.Os.Family, ""
	if name, ok := browsers[browser]; ok {
		browser = name
	}
	if name, ok := systems[system]; ok {
		system = name
	}
	if strings.HasPrefix(text, "Dalvik/") {
		browser = "" // an app on Android
	}
	bot := c.Device.Family == "Spider" || isBot(text, system)
	if !bot {
		device = deviceOf(text, system, c.Device.Family)
	}
	return Agent{Browser: []byte(browser), OS: []byte(system), Device: []byte(device), Bot: bot}
}

// deviceOf is the kind of device. Tablets of Android are those that do not say Mobile.
func deviceOf(text, system, family string) string {
	switch system {
	case "Windows", "macOS", "Linux", "ChromeOS", "FreeBSD", "OpenBSD", "NetBSD", "Solaris":
		if strings.Contains(text, "Mobile") {
			return "mobile"
		}
		return "desktop"
	case "iOS", "iPadOS":
		if family == "iPad" {
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
