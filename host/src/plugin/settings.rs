//! Settings of a job against the schema of its renderer.

use serde_json::{Map, Value};

/// Why settings do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}\n{hint}")]
pub struct SettingsError {
    what: String,
    hint: String,
}

/// What stands in the place of a secret.
const HIDDEN: &str = "(hidden)";
/// How deep secrets are looked for; a schema may refer to itself.
const LEVELS: u32 = 64;

/// The settings that a renderer takes.
#[derive(Debug)]
pub struct Schema {
    value: Value,
    validator: jsonschema::Validator,
    /// Whether it may have any; most have none, and then settings need not be looked through.
    has_secrets: bool,
}

/// What a setting takes and means, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Values and range.
    pub takes: String,
    /// The default, if the schema names one.
    pub by_default: Option<String>,
    /// Its description.
    pub about: String,
}

impl Schema {
    /// Reads a JSON Schema; fails with a sentence if it is none.
    pub fn new(value: Value) -> Result<Self, String> {
        if !value.is_object() {
            return Err("the settings schema is no JSON object".to_owned());
        }
        let validator = jsonschema::validator_for(&closed(value.clone()))
            .map_err(|error| format!("the settings schema is no JSON Schema: {error}"))?;
        let has_secrets = value.to_string().contains("\"writeOnly\"");
        Ok(Self { value, validator, has_secrets })
    }

    /// Returns settings without those that are only to be written (`writeOnly`): secrets.
    pub fn visible(&self, settings: &str) -> String {
        if !self.has_secrets {
            return settings.to_owned();
        }
        let mut settings = serde_json::from_str(settings).unwrap_or_default();
        hide(&self.value, &self.value, &mut settings, LEVELS);
        settings.to_string()
    }

    /// Returns the schema.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Reads `name=value` texts and checks them.
    pub fn read(&self, texts: &[String]) -> Result<Map<String, Value>, SettingsError> {
        let mut settings = Map::new();
        for text in texts {
            let (name, value) = text.split_once('=').ok_or_else(|| SettingsError {
                what: format!("'{text}' is no setting"),
                hint: "write settings as --set name=value".to_owned(),
            })?;
            settings.insert(name.trim().to_owned(), self.read_value(name.trim(), value.trim()));
        }
        self.check(&settings)?;
        Ok(settings)
    }

    /// Checks settings; the error names the first that does not fit.
    pub fn check(&self, settings: &Map<String, Value>) -> Result<(), SettingsError> {
        use jsonschema::error::ValidationErrorKind::{
            AdditionalProperties, FalseSchema, UnevaluatedProperties,
        };
        let instance = Value::Object(settings.clone());
        let errors: Vec<_> = self.validator.iter_errors(&instance).collect();
        for error in &errors {
            // So it is said of a schema without properties.
            if let (FalseSchema, Some(first)) = (error.kind(), settings.keys().next())
                && self.names().next().is_none()
            {
                return Err(self.unknown(first));
            }
            if let AdditionalProperties { unexpected } | UnevaluatedProperties { unexpected } = error.kind()
                && error.instance_path().as_str().is_empty()
            {
                return Err(self.unknown(&unexpected[0]));
            }
        }
        let Some(error) = errors.first() else { return Ok(()) };
        let path = error.instance_path().to_string();
        let name = path.trim_start_matches('/').replace('/', ".");
        let what = match name.is_empty() {
            true => format!("the settings do not fit: {error}"),
            false => format!("the setting '{name}' does not fit: {error}"),
        };
        Err(SettingsError { what, hint: self.help(&name) })
    }

    /// A text that is wanted as a text stays one, `4` of a camera's name too.
    fn read_value(&self, name: &str, text: &str) -> Value {
        let wants_text = self.types(name).contains(&"string") || self.property(name).get("enum").is_some();
        match serde_json::from_str(text) {
            Ok(value) if !wants_text || matches!(value, Value::String(_)) => value,
            _ => Value::String(text.to_owned()),
        }
    }

    fn types(&self, name: &str) -> Vec<&str> {
        match self.property(name).get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => match self.property(name).get("anyOf").and_then(Value::as_array) {
                Some(any) => any.iter().filter_map(|one| one["type"].as_str()).collect(),
                None => Vec::new(),
            },
        }
    }

    fn property(&self, name: &str) -> &Value {
        &self.value["properties"][name]
    }

    /// Returns the names of all settings.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.value["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str)
    }

    fn unknown(&self, name: &str) -> SettingsError {
        if self.names().next().is_none() {
            let what = format!("the renderer takes no settings, so no '{name}'");
            return SettingsError { what, hint: "its author declares them in its schema".to_owned() };
        }
        let all = self.names().collect::<Vec<_>>().join(", ");
        let hint = match nearest(name, self.names()) {
            Some(near) => format!("did you mean '{near}'? the settings are: {all}"),
            None => format!("the settings are: {all}"),
        };
        SettingsError { what: format!("the renderer has no setting '{name}'"), hint }
    }

    /// Says in a line what a setting takes.
    pub fn help(&self, name: &str) -> String {
        let Explained { takes, by_default, about } = self.explain(name);
        let by_default = by_default.map(|value| format!(", by default {value}")).unwrap_or_default();
        match (name.is_empty(), about.is_empty()) {
            (true, _) => format!("the settings are: {}", self.names().collect::<Vec<_>>().join(", ")),
            (_, true) => format!("it takes {takes}{by_default}"),
            _ => format!("it takes {takes}{by_default}: {about}"),
        }
    }

    /// Says what a setting takes and means.
    pub fn explain(&self, name: &str) -> Explained {
        let property = self.property(name);
        let any = property.get("anyOf").and_then(|any| any.get(0)).unwrap_or(property);
        let word = |kind| match kind {
            "integer" => "an integer",
            "number" => "a number",
            "string" => "a text",
            "boolean" => "true or false",
            "array" => "a list",
            "object" => "an object",
            other => other,
        };
        let types = self.types(name).into_iter().filter(|kind| *kind != "null").map(word);
        let takes = match any.get("enum").and_then(Value::as_array) {
            Some(values) => {
                let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                format!("one of {}", values.join(", "))
            }
            None => types.collect::<Vec<_>>().join(" or "),
        };
        let range = match (property.get("minimum"), property.get("maximum")) {
            (Some(low), Some(high)) => format!(" from {low} to {high}"),
            (Some(low), None) => format!(" from {low}"),
            (None, Some(high)) => format!(" up to {high}"),
            (None, None) => String::new(),
        };
        let by_default = property.get("default").filter(|value| !value.is_null());
        let about = property["description"].as_str().unwrap_or_default().trim_end_matches('.');
        Explained {
            takes: format!("{takes}{range}"),
            by_default: by_default.map(ToString::to_string),
            about: about.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

/// Closes a schema that says nothing of settings it does not name: a typo is no setting.
fn closed(mut schema: Value) -> Value {
    let says = ["additionalProperties", "unevaluatedProperties"].iter().any(|key| schema.get(key).is_some());
    if let (false, Some(keys)) = (says, schema.as_object_mut()) {
        keys.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
    }
    schema
}

/// Returns the name that is most like `name`, if one is like it.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let like = names.map(|other| (strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase()), other));
    like.filter(|(score, _)| *score > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

/// Hides what a part of a schema says is only to be written.
fn hide(root: &Value, schema: &Value, value: &mut Value, levels: u32) {
    let Some(levels) = levels.checked_sub(1) else {
        // Rather too much than too little.
        *value = HIDDEN.into();
        return;
    };
    if schema["writeOnly"] == true {
        *value = HIDDEN.into();
        return;
    }
    let reference = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    let referred = reference.and_then(|pointer| root.pointer(pointer));
    let parts = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    for part in parts.chain(referred) {
        hide(root, part, value, levels);
    }
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| {
            let own = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
            hide(root, own, value, levels);
        }),
        Value::Array(values) => {
            values.iter_mut().for_each(|value| hide(root, &schema["items"], value, levels))
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::new(json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "samples": {"type": ["integer", "null"], "minimum": 1, "maximum": 64, "description": "Samples a pixel."},
                "camera": {"type": ["string", "null"]},
                "engine": {"anyOf": [{"type": "string", "enum": ["CYCLES", "EEVEE"]}, {"type": "null"}]},
                "denoise": {"type": "boolean"},
            }
        }))
        .unwrap()
    }

    fn read(texts: &[&str]) -> Result<Value, String> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        schema().read(&texts).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn texts_become_the_types_that_the_schema_wants() {
        let settings = read(&["samples=32", "camera=4", "engine=EEVEE", "denoise=true"]);
        assert_eq!(
            settings.unwrap(),
            json!({"samples": 32, "camera": "4", "engine": "EEVEE", "denoise": true})
        );
        assert_eq!(read(&[]).unwrap(), json!({}));
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_would() {
        let check = |text: &str, parts: &[&str]| {
            let error = read(&[text]).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        };
        check("sampels=3", &["no setting 'sampels'", "did you mean 'samples'?"]);
        check("zzz=3", &["no setting 'zzz'", "the settings are: "]);
        check("samples=many", &["'samples' does not fit", "integer from 1 to 64: Samples a pixel"]);
        check("samples=0", &["'samples' does not fit", "minimum"]);
        check("samples=65", &["'samples' does not fit", "maximum"]);
        check("engine=EVEE", &["'engine' does not fit", "one of CYCLES, EEVEE"]);
        check("samples", &["'samples' is no setting", "--set name=value"]);
    }

    #[test]
    fn a_setting_that_no_schema_names_is_taken_only_where_it_says_so() {
        let read = |others: Value| {
            let mut schema = json!({"type": "object", "properties": {"near": {"type": "integer"}}});
            schema.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
            Schema::new(schema).unwrap().read(&["neat=1".to_owned()])
        };
        assert!(read(json!({})).unwrap_err().to_string().contains("did you mean 'near'?"));
        assert!(read(json!({"additionalProperties": true})).is_ok());
        assert!(read(json!({"additionalProperties": {"type": "integer"}})).is_ok());
        assert!(read(json!({"additionalProperties": {"type": "string"}})).is_err());
        assert!(read(json!({"patternProperties": {"^ne": {"type": "integer"}}})).is_ok());
        assert!(read(json!({"allOf": [{"properties": {"neat": {"type": "integer"}}}]})).is_ok());
        assert!(read(json!({"allOf": [{"properties": {"nest": {"type": "integer"}}}]})).is_err());
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        assert!(Schema::new(json!([])).is_err());
        assert!(Schema::new(json!({"type": 7})).is_err());
    }

    #[test]
    fn what_is_only_to_be_written_is_hidden() {
        let schema = serde_json::json!({
            "type": "object",
            "properties": {
                "key": {"type": "string", "writeOnly": true},
                "samples": {"type": "integer"},
                "cloud": {"$ref": "#/$defs/cloud"},
                "all": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/cloud"}, {"type": "null"}]}},
            },
            "$defs": {"cloud": {"type": "object", "properties": {
                "token": {"type": "string", "writeOnly": true}, "place": {"type": "string"},
            }}},
        });
        let settings = r#"{"key": "k", "samples": 3, "cloud": {"token": "t", "place": "p"},
                           "all": [{"token": "t"}, null]}"#;
        let visible = Schema::new(schema).unwrap().visible(settings);
        let visible: Value = serde_json::from_str(&visible).unwrap();
        let expected = serde_json::json!({
            "key": HIDDEN, "samples": 3, "cloud": {"token": HIDDEN, "place": "p"},
            "all": [{"token": HIDDEN}, null],
        });
        assert_eq!(visible, expected);
    }
}
