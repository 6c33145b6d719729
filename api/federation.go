package api

import (
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

// federation writes samples as the families of a scrape. Samples of one name and kind
// that follow one another are one family; where a name has several kinds it is several,
// which is not valid strictly but what Prometheus writes and reads.
type federation struct {
	to     expfmt.Encoder
	native bool // the format has native histograms

	family    *dto.MetricFamily // nil: none has begun
	histogram bool              // of family
	gauge     bool              // of family: of histograms that do not count up
}

// add writes a sample. One without a name is left out, as is a native histogram where
// the format has none; one with custom buckets becomes a classic one.
func (f *federation) add(s *promql.Sample) error {
	name := s.Metric.Get(model.MetricNameLabel)
	if name == "" || s.H != nil && !s.H.UsesCustomBuckets() && !f.native {
		return nil
	}
	if f.family == nil || f.family.GetName() != name || f.histogram != (s.H != nil) || f.gauge != isGauge(s.H) {
		if err := f.end(); err != nil {
			return err
		}
		f.histogram, f.gauge = s.H != nil, isGauge(s.H)
		f.family = &dto.MetricFamily{Name: new(name), Type: dto.MetricType_UNTYPED.Enum()}
		switch {
		case f.gauge:
			f.family.Type = dto.MetricType_GAUGE_HISTOGRAM.Enum()
		case f.histogram:
			f.family.Type = dto.MetricType_HISTOGRAM.Enum()
		}
	}
	m := &dto.Metric{TimestampMs: new(s.T), Label: federatedLabels(s.Metric)}
	switch {
	case s.H == nil:
		m.Untyped = &dto.Untyped{Value: new(s.F)}
	case s.H.UsesCustomBuckets():
		m.Histogram = classicHistogram(s.H)
	default:
		m.Histogram = nativeHistogram(s.H)
	}
	f.family.Metric = append(f.family.Metric, m)
	return nil
}

// end writes the family that has begun.
func (f *federation) end() error {
	if f.family == nil {
		return nil
	}
	family := f.family
	f.family = nil
	return f.to.Encode(family)
}

// federatedLabels are those of a series without its name, and with an instance: where
// there is none an empty one, so that who scrapes with honor_labels does not add its own.
func federatedLabels(ls labels.Labels) []*dto.LabelPair {
	var out []*dto.LabelPair
	ls.Range(func(l labels.Label) {
		if l.Name != model.MetricNameLabel && l.Value != "" {
			out = append(out, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
		}
	})
	if ls.Get(model.InstanceLabel) == "" {
		out = append(out, &dto.LabelPair{Name: new(model.InstanceLabel), Value: new("")})
	}
	return out
}

func nativeHistogram(h *histogram.FloatHistogram) *dto.Histogram {
	return &dto.Histogram{
		SampleCountFloat: new(h.Count),
		SampleSum:        new(h.Sum),
		Schema:           new(h.Schema),
		ZeroThreshold:    new(h.ZeroThreshold),
		ZeroCountFloat:   new(h.ZeroCount),
		NegativeSpan:     spans(h.NegativeSpans),
		NegativeCount:    h.NegativeBuckets,
		PositiveSpan:     spans(h.PositiveSpans),
		PositiveCount:    h.PositiveBuckets,
	}
}

func spans(in []histogram.Span) []*dto.BucketSpan {
	var out []*dto.BucketSpan
	for _, s := range in {
		out = append(out, &dto.BucketSpan{Offset: new(s.Offset), Length: new(s.Length)})
	}
	return out
}

// classicHistogram is a histogram with custom buckets as a classic one, whose last
// bucket the encoder adds.
func classicHistogram(h *histogram.FloatHistogram) *dto.Histogram {
	out := &dto.Histogram{SampleCountFloat: new(h.Count), SampleSum: new(h.Sum)}
	counts := make([]float64, len(h.CustomValues)+1)
	for it := h.PositiveBucketIterator(); it.Next(); {
		if i := int(it.At().Index); i >= 0 && i < len(counts) {
			counts[i] = it.At().Count
		}
	}
	total := 0.0
	for i, bound := range h.CustomValues {
		total += counts[i]
		out.Bucket = append(out.Bucket, &dto.Bucket{UpperBound: new(bound), CumulativeCountFloat: new(total)})
	}
	return out
}
