{{/* Name of the chart, as a label. */}}
{{- define "streamstage.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 54 | trimSuffix "-" }}
{{- end }}

{{/* Name that the objects begin with: `streamstage` for a release of that name. */}}
{{- define "streamstage.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else if contains (include "streamstage.name" .) .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "streamstage.name" .) | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Name of the operator's objects and of its lease. */}}
{{- define "streamstage.operator" -}}
{{ include "streamstage.fullname" . }}-operator
{{- end }}

{{/* Labels of every object; the argument is a list of the root and the component. */}}
{{- define "streamstage.labels" -}}
{{- $root := index . 0 -}}
{{ include "streamstage.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: streamstage
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that never change. */}}
{{- define "streamstage.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "streamstage.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* An image; the argument is a list of the root and `operator` or `worker`. */}}
{{- define "streamstage.image" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ index $image (index . 1) }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}

{{/* Amounts as the operator's flags have them: cpu=100m,memory=64Mi. */}}
{{- define "streamstage.amounts" -}}
{{- $amounts := list -}}
{{- range $name, $amount := . }}{{ $amounts = append $amounts (printf "%s=%v" $name $amount) }}{{ end -}}
{{ join "," $amounts }}
{{- end }}

{{/* What the `restricted` Pod Security Standard asks of a pod. */}}
{{- define "streamstage.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What it asks of a container, and a root that is read-only. */}}
{{- define "streamstage.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
