-- Temporary functions that turn a kind of thing and its number into keys, choices, instants and Japanese words.
-- Everything comes from md5 of "seed:kind:number", which is the same on every version and machine.

CREATE FUNCTION pg_temp.digest(kind text, n bigint) RETURNS text LANGUAGE sql STABLE
    RETURN md5(current_setting('example.seed') || ':' || kind || ':' || n);

CREATE FUNCTION pg_temp.as_key(hash text) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN overlay(overlay(hash PLACING '4' FROM 13) PLACING '8' FROM 17)::uuid;

CREATE FUNCTION pg_temp.key(kind text, n bigint) RETURNS uuid LANGUAGE sql STABLE
    RETURN pg_temp.as_key(pg_temp.digest(kind, n));

-- Seven hexadecimal digits as a number below 2^28.
CREATE FUNCTION pg_temp.as_number(hash text, first_digit int) RETURNS int LANGUAGE sql IMMUTABLE
    RETURN ('x' || substr(hash, first_digit, 7))::bit(28)::int;

CREATE FUNCTION pg_temp.pick(kind text, n bigint, options int) RETURNS int LANGUAGE sql STABLE
    RETURN pg_temp.as_number(pg_temp.digest(kind, n), 1) % options;

CREATE FUNCTION pg_temp.choose(kind text, n bigint, options text[]) RETURNS text LANGUAGE sql STABLE
    RETURN options[1 + pg_temp.pick(kind, n, cardinality(options))];

-- An instant at or after "earliest" and before "latest", to the microsecond.
CREATE FUNCTION pg_temp.instant(kind text, n bigint, earliest timestamp, latest timestamp)
RETURNS timestamp LANGUAGE sql STABLE
    RETURN earliest + interval '1 microsecond' * (
        ('x' || substr(pg_temp.digest(kind, n), 1, 13))::bit(52)::bigint
        % (EXTRACT(epoch FROM latest - earliest) * 1000000)::bigint
    );

CREATE FUNCTION pg_temp.surnames() RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY['佐藤', '鈴木', '高橋', '田中', '伊藤', '渡辺', '山本', '中村', '小林', '加藤', '吉田', '山田',
                 '佐々木', '山口', '松本', '井上', '木村', '林', '斎藤', '清水', '山崎', '森', '池田', '橋本',
                 '阿部', '石川', '髙橋', '渡邊', '齋藤', '𠮷田', '長谷川', '五十嵐'];

CREATE FUNCTION pg_temp.given_names() RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY['太郎', '花子', '一郎', '美咲', '健太', '陽子', '翔太', '恵子', '大輔', '由美', '拓也', '直美',
                 '誠', '香織', '隆', '裕子', '浩二', '真由美', '学', '智子', '亮', '愛', '和也', '久美子',
                 '蓮', '結衣', '悠真', '葵', '湊', 'さくら', 'ジョン', 'マリア'];

CREATE FUNCTION pg_temp.person(n bigint) RETURNS text LANGUAGE sql STABLE
    RETURN pg_temp.choose('surname', n, pg_temp.surnames()) || ' ' || pg_temp.choose('given', n, pg_temp.given_names());

CREATE FUNCTION pg_temp.companies() RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY['青葉', '東洋', '日本橋', '北斗', '瑞穂野', '桜木', '富士見', '大和田', '港南', '三河', '若松', '白鷺',
                 '飛鳥', '武蔵野', '南星', 'ＡＢＣ', '鶴見', '芙蓉', '千歳', '明治坂'];

CREATE FUNCTION pg_temp.trades() RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY['コンサルティング', 'システムズ', '総合研究所', 'ソリューションズ', '商事', '電機', '製作所', '物流',
                 'データサービス', '建設', '化学工業', 'パートナーズ'];

-- Different for any 240 numbers in a row.
CREATE FUNCTION pg_temp.company(n int) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN (pg_temp.companies())[1 + n % 20] || (pg_temp.trades())[1 + (n / 20 + n % 20 * 5) % 12];

-- What a unit is called, by its level in the tree.
CREATE FUNCTION pg_temp.unit_words(level int) RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN CASE
        WHEN level = 0 THEN ARRAY['本社', '本店', '統括本部']
        WHEN level = 1 THEN ARRAY['営業本部', '管理本部', '技術本部', '海外本部', '生産本部']
        WHEN level = 2 THEN ARRAY['東日本事業部', '西日本事業部', '中部事業部', '九州事業部', '国際事業部']
        WHEN level = 3 THEN ARRAY['首都圏統括部', '広域統括部', '重点顧客統括部', '新規開拓統括部']
        WHEN level = 4 THEN ARRAY['法人営業部', '人事部', '経理部', '情報システム部', '品質保証部', '公共部', '金融部']
        WHEN level = 5 THEN ARRAY['企画室', '業務室', '管理室', '技術室', '渉外室']
        WHEN level = 6 THEN ARRAY['第一グループ', '第二グループ', '第三グループ', '特命グループ']
        WHEN level <= 8 THEN ARRAY['総務課', '推進課', '開発課', '運用課', '調達課', '審査課', '監査課', 'サービス課']
        ELSE ARRAY['設計係', '試験係', '保守係', '窓口係', '契約係', '分析係', '企画係', '支援係', '教育係', '広報係']
    END;

CREATE FUNCTION pg_temp.team_words() RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY['基幹システム刷新', '業務改革推進', '顧客データ統合', '内部統制強化', '新規事業開発', '海外展開支援',
                 'セキュリティ対策', '人材育成', 'コスト削減', '品質改善', '法令対応', '災害対策', 'ＤＸ推進',
                 '会計基準対応', '物流最適化', '働き方改革', '環境対応', '生成ＡＩ活用', '拠点統合', '監査対応'];

-- Text that loaders, quoting and comparisons get wrong.
CREATE FUNCTION pg_temp.awkward_words() RETURNS text[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY[
        E'タブ\tと改行\nを含む', E'円記号 \\ と \\N と \\. と \\t', $$引用符 'single' "double" と $1 $$,
        E'行末の空白 \r\n次の行\r', '絵文字 😀🏢👩‍💼 と𠮷野家と葛󠄀城', 'ＡＢＣ　１２３　全角空白', 'ﾊﾝｶｸ ｶﾅ ｶﾞ が', E'\\', E'\n', '',
        E'制御文字 \x01\x08\x0b\x0c\x7f', '合成 ガ と ガ、波線 〜 ～、長音 − －', 'NULL', '{"json": "ではない"}', E'\uFEFF印'
    ];

-- An ordinary text, but for about one number in forty an awkward one.
CREATE FUNCTION pg_temp.text_or_awkward(kind text, n bigint, ordinary text) RETURNS text LANGUAGE sql STABLE
    RETURN CASE pg_temp.pick(kind || ' awkward', n, 40)
        WHEN 0 THEN pg_temp.choose(kind || ' which', n, pg_temp.awkward_words())
        ELSE ordinary
    END;
