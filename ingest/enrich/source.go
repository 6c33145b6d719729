package enrich

import "strings"

// Media of visits that no UTM parameter names, as web analytics calls them.
const (
	mediumNone     = "(none)" // nothing says where from
	mediumOrganic  = "organic"
	mediumSocial   = "social"
	mediumEmail    = "email"
	mediumReferral = "referral"
)

// channels are plain names of media.
var channels = map[string]string{
	mediumNone: "direct", mediumOrganic: "search", mediumSocial: "social", mediumEmail: "email", mediumReferral: "referral",
}

// engines are hosts of search engines, social networks and mail, without what is before
// and after the name, by their medium.
var engines = map[string]string{
	"google": mediumOrganic, "bing": mediumOrganic, "duckduckgo": mediumOrganic, "yahoo": mediumOrganic, "yandex": mediumOrganic,
	"baidu": mediumOrganic, "ecosia": mediumOrganic, "qwant": mediumOrganic, "startpage": mediumOrganic, "ask": mediumOrganic,
	"naver": mediumOrganic, "seznam": mediumOrganic, "sogou": mediumOrganic, "aol": mediumOrganic, "kagi": mediumOrganic,
	"facebook": mediumSocial, "instagram": mediumSocial, "twitter": mediumSocial, "linkedin": mediumSocial, "lnkd": mediumSocial,
	"reddit": mediumSocial, "pinterest": mediumSocial, "youtube": mediumSocial, "tiktok": mediumSocial, "threads": mediumSocial,
	"vk": mediumSocial, "weibo": mediumSocial, "tumblr": mediumSocial, "bsky": mediumSocial, "ycombinator": mediumSocial,
	"quora": mediumSocial, "xing": mediumSocial, "mastodon": mediumSocial,
}

// shortHosts are hosts whose name alone is too short to mean one thing.
var shortHosts = map[string]string{"t.co": "twitter", "x.com": "twitter", "youtu.be": "youtube", "fb.me": "facebook", "wa.me": "whatsapp", "t.me": "telegram"}

// Source is where a visit came from, texts that are not to be changed.
type Source struct {
	Name    []byte // "google", the host of a site, "(direct)"
	Medium  []byte // as web analytics calls it: "organic", "social", "email", "referral", "(none)"
	Channel []byte // "search", "social", "email", "referral", "direct"
}

// newSource is what a referrer, a host, is known as.
func newSource(referrer string) Source {
	name, medium := referrerOf(strings.TrimPrefix(strings.ToLower(referrer), "www."))
	return Source{[]byte(name), []byte(medium), []byte(channels[medium])}
}

func referrerOf(host string) (name, medium string) {
	switch {
	case host == "" || host == "$direct":
		return "(direct)", mediumNone
	case shortHosts[host] != "":
		return shortHosts[host], mediumSocial
	case strings.HasPrefix(host, "mail.") || strings.HasPrefix(host, "outlook."):
		return host, mediumEmail
	}
	// The name is the first label that is one, of at most the last four:
	// "news.ycombinator.com", "www.google.co.uk", "de.search.yahoo.com".
	labels := strings.Split(host, ".")
	for i := max(0, len(labels)-4); i < len(labels)-1; i++ {
		if medium := engines[labels[i]]; medium != "" {
			return labels[i], medium
		}
	}
	return host, mediumReferral
}
