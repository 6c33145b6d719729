package answer

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"

	"github.com/quipudb/quipu/internal/client"
)

// Value is a decoded answer: exactly one field is set.
type Value struct {
	Vector model.Vector
	Matrix model.Matrix
	Scalar *model.Scalar
	String *model.String
}

// Decode reads the result of an answer.
func Decode(a client.Answer) (Value, error) {
	var v Value
	var err error
	switch a.Type {
	case "vector":
		err = json.Unmarshal(a.Result, &v.Vector)
	case "matrix":
		err = json.Unmarshal(a.Result, &v.Matrix)
	case "scalar":
		v.Scalar = new(model.Scalar)
		err = json.Unmarshal(a.Result, v.Scalar)
	case "string":
		v.String = new(model.String)
		err = json.Unmarshal(a.Result, v.String)
	default:
		return Value{}, fmt.Errorf("the answer is a %q, which is not known here", a.Type)
	}
	if err != nil {
		return Value{}, fmt.Errorf("read the answer, a %s: %w", a.Type, err)
	}
	return v, nil
}

// labelNames returns all label names that the metrics have, the metric's own
// name first, then by alphabet.
func labelNames(metrics []model.Metric) []model.LabelName {
	seen := map[model.LabelName]bool{}
	var names []model.LabelName
	for _, m := range metrics {
		for name := range m {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	slices.SortFunc(names, func(a, b model.LabelName) int {
		if a == model.MetricNameLabel {
			return -1
		}
		if b == model.MetricNameLabel {
			return 1
		}
		if a < b {
			return -1
		}
		return 1
	})
	return names
}
